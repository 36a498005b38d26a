"""Every downstream config parses and builds, and the model index is consistent."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import DefaultScope

from cmp_mm.engine.run_config import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'downstream').glob('*/*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_builds_and_runs(need, path):
    need(path.parent.name)
    cfg = Config.fromfile(path)
    assert cfg.default_scope == path.parent.name
    assert cfg.custom_imports['imports'][0] == 'cmp_mm.downstream'
    assert cfg.model.get('pretrained') is None
    backbone = cfg.model.backbone
    assert backbone.type in ('ResNet', 'cmp_mm.ResNet', 'cmp_mm.AlexNetFCN')
    # Nothing of a base's Pretrained may be left in it.
    assert backbone.init_cfg == dict(type='cmp_mm.BackboneInit', source='cmp')
    models = importlib.import_module(f'{cfg.default_scope}.registry').MODELS
    # Shapes are all that is looked at: no memory, no arithmetic.
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = models.build(cfg.model).eval()
        if cfg.default_scope == 'mmdet':
            assert [f.shape[1] for f in model.extract_feat(torch.zeros(1, 3, 64, 64))] == [256] * 5
            return
        output = model(torch.zeros(2, 3, 64, 64), None, mode='tensor')
    channels = cfg.model.get('decode_head', {}).get('num_classes') or cfg.model.head.out_channels
    assert output.shape[:2] == (2, channels)
    if cfg.default_scope == 'mmseg' and cfg.get('crop_size'):
        assert tuple(cfg.model.data_preprocessor.size) == tuple(cfg.crop_size)


def test_a_narrow_image_of_puppets_can_be_learnt_from(need):
    """Whose sides are padded: mmseg's loss with weights of the classes knows no pixels to leave out."""
    need('mmseg')
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    name = 'cmp_fcn_r18-3stages-d8_1xb8-1k_puppets-112x112.py'
    cfg = Config.fromfile(ROOT / 'configs' / 'downstream' / 'mmseg' / name)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model).train()
    samples = [SegDataSample(metainfo=dict(img_shape=(90, 112))) for _ in range(2)]
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 8, (1, 90, 112)))
    images = [torch.zeros(3, 90, 112, dtype=torch.uint8)] * 2
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    losses = model(**data, mode='loss')
    assert all(value.isfinite() for key, value in losses.items() if 'loss' in key)


RESNET_50 = sorted((ROOT / 'configs/downstream/mmseg').glob('cmp_fcn_r50-d8_*.py'))


@pytest.mark.parametrize('path', RESNET_50, ids=lambda path: path.stem)
def test_pretrained_layout_is_kept(need, path):
    """The dilated ResNet-50 of mmseg computes what the pretrained one computes."""
    need('mmseg')
    from mmseg.registry import MODELS

    from cmp_mm.models import ResNet

    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmseg'):
        theirs = MODELS.build(dict(cfg.model.backbone, norm_cfg=dict(type='BN')))
    ours = ResNet(50, out_indices=(0, 1, 2, 3))
    theirs.eval()
    ours.eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        for a, b in zip(theirs(image), ours(image), strict=True):
            torch.testing.assert_close(a, b)


def metafiles():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    return {name: yaml.safe_load((ROOT / name).read_text()) for name in index}


NUMBERED = [path for path in CONFIGS if re.search(r'_\d+xb\d+-', path.stem)]


@pytest.mark.parametrize('path', NUMBERED, ids=lambda path: path.stem)
def test_base_batch_size_is_that_of_the_name(need, path):
    """``--auto-scale-lr`` divides by it."""
    need(path.parent.name)
    gpus, batch = (int(number) for number in re.search(r'_(\d+)xb(\d+)-', path.stem).groups())
    base = Config.fromfile(path).get('auto_scale_lr', {}).get('base_batch_size')
    assert base in (None, gpus * batch)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_data_root_moves_every_file(need, path):
    need(path.parent.name)
    cfg = load_config(str(path), data_root='/elsewhere')
    for split in ('train', 'val', 'test'):
        for text in strings([cfg[f'{split}_dataloader'].dataset, cfg.get(f'{split}_evaluator')]):
            assert not text.startswith('data/'), text


def strings(node):
    if isinstance(node, str):
        yield node
    elif isinstance(node, (list, tuple, dict)):
        for part in node.values() if isinstance(node, dict) else node:
            yield from strings(part)


@pytest.mark.parametrize('name', ['camvid', 'ccp', 'foreground', 'puppets'])
def test_small_sets_are_tested_at_the_scale_of_training(need, name):
    need('mmseg')
    for path in CONFIGS:
        if f'_{name}-' in path.stem and path.parent.name == 'mmseg':
            cfg = Config.fromfile(path)
            resize = [step for step in cfg.test_pipeline if step.type == 'Resize']
            assert [step.scale for step in resize] == [cfg.train_pipeline[2].scale], path.stem
            assert cfg.val_dataloader.dataset.pipeline == cfg.test_pipeline


def test_index_names_every_metafile_and_config():
    listed = metafiles()
    assert set(listed) == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('metafile.yml')
    }
    models = [model for meta in listed.values() for model in meta['Models']]
    names = [model['Name'] for model in models]
    assert len(names) == len(set(names))
    for model in models:
        assert Path(model['Config']).stem == model['Name']
    configs = {path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts}
    assert {ROOT / model['Config'] for model in models} == configs


def test_config_names_are_unique_in_the_project():
    stems = [path.stem for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts]
    assert len(stems) == len(set(stems))


def test_collections_and_readmes_exist():
    for meta in metafiles().values():
        collections = {collection['Name']: collection for collection in meta['Collections']}
        assert all((ROOT / collection['README']).is_file() for collection in collections.values())
        assert {model['In Collection'] for model in meta['Models']} <= set(collections)


def test_readme_tables_are_up_to_date():
    script = ROOT / 'tools' / 'analysis_tools' / 'update_model_zoo.py'
    result = subprocess.run([sys.executable, script, '--check'], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_rows_without_figures_say_not_run(tmp_path):
    sys.path.insert(0, str(ROOT / 'tools' / 'analysis_tools'))
    try:
        zoo = importlib.import_module('update_model_zoo')
    finally:
        sys.path.pop(0)
    folder = tmp_path / 'configs' / 'x'
    folder.mkdir(parents=True)
    model = dict(Name='a', Config='configs/x/a.py', Results=[dict(Metrics={})])
    assert '| not run |' in zoo.table_row(model, folder, tmp_path)
    model['Results'] = [dict(Metrics=dict(mIoU=12.5))]
    row = zoo.table_row(model, folder, tmp_path)
    assert '| mIoU 12.5 |' in row and 'not run' not in row


@pytest.mark.parametrize('name', ['camvid', 'ccp', 'foreground', 'puppets', 'lip', 'cihp'])
def test_validation_is_on_the_validation_split(name):
    cfg = Config.fromfile(ROOT / f'configs/downstream/mmseg/_base_/{name}.py')

    def part(split):
        dataset = cfg[f'{split}_dataloader'].dataset
        return dataset.get('split') or dataset.data_prefix.img_path

    expected = dict(lip=('train_images', 'val_images'), cihp=('Training/Images', 'Validation/Images'))
    assert (part('train'), part('val')) == expected.get(name, ('train', 'val'))
    assert part('test') == part('val')
    assert dict(cfg.train_dataloader.sampler) == dict(type='InfiniteSampler', shuffle=True)
    assert dict(cfg.val_dataloader.sampler) == dict(type='DefaultSampler', shuffle=False)


def test_detection_treats_all_starts_alike(need):
    """A stem that is frozen would stay random, or what the pretraining left."""
    need('mmdet')
    paths = [path for path in CONFIGS if path.parent.name == 'mmdet']
    assert paths
    for path in paths:
        backbone = Config.fromfile(path).model.backbone
        assert (backbone.frozen_stages, backbone.norm_eval) == (-1, False), path.stem
        assert backbone.norm_cfg.type == 'SyncBN', path.stem


def test_numbers_behind_the_tables(need):
    """With another of these the figures of the READMEs would be of another experiment."""
    need('mmseg')
    need('mmpose')
    schedule = Config.fromfile(ROOT / 'configs/downstream/mmseg/_base_/schedule_1k.py')
    optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
    decay = dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=1000, by_epoch=False)
    assert dict(schedule.optim_wrapper.optimizer) == optimizer
    assert dict(schedule.param_scheduler[0]) == decay
    folder = ROOT / 'configs/downstream'
    for path in folder.glob('mmseg/*alexnet_1xb8-1k*.py'):
        assert Config.fromfile(path).optim_wrapper.optimizer.lr == 1e-3, path.stem
    (parts,) = folder.glob('mmseg/*_puppets-*.py')
    assert list(Config.fromfile(parts).model.decode_head.loss_decode.class_weight) == [0.15] + [1.0] * 7
    (pose,) = folder.glob('mmpose/*1k_puppets-128x96.py')
    cfg = Config.fromfile(pose)
    assert cfg.val_evaluator[0].thr == 0.1
    assert dict(cfg.train_dataloader.sampler) == dict(type='InfiniteSampler', shuffle=True)
