"""Every number of the pretraining configs against a table of the reference's experiments."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from torch import nn

from cmp_mm.engine import run_config
from cmp_mm.guidance import grid_stride
from cmp_mm.registry import MODELS, TRANSFORMS

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'cmp').glob('*.py'))
YFCC, YOUTUBE, VIP, MPII = 'data/yfcc/', 'data/youtube9k/', 'data/VIP/', 'data/MPII/'
# config: encoder, decoder, combo, data, crop, short side, K, bg_ratio, stride, cap, batch, GPUs, iterations
FAITHFUL = {
    'cmp_alexnet-plain_16xb12-70k_yfcc-384x384': (
        *('AlexNetFCN', 'PlainDecoder', (1, 2, 4), [YFCC]),
        *(384, 416, 41, 1.5625e-4, 80, 150, 12, 16, 70_000),
    ),
    'cmp_alexnet-plain_8xb12-140k_yfcc-384x384': (
        *('AlexNetFCN', 'PlainDecoder', (1, 2, 4), [YFCC]),
        *(384, 416, 41, 1.5625e-4, 80, 150, 12, 8, 140_000),
    ),
    'cmp_alexnet-plain_16xb12-140k_yfcc-youtube-384x384': (
        *('AlexNetFCN', 'PlainDecoder', (1, 2, 4), [YFCC, YOUTUBE]),
        *(384, 416, 81, 2.5e-5, 200, 150, 12, 16, 140_000),
    ),
    'cmp_resnet50-plain_16xb10-42k_yfcc-320x320': (
        *('ResNet', 'PlainDecoder', (1, 2, 4), [YFCC]),
        *(320, 416, 67, 3.629e-5, 165, -1, 10, 16, 42_000),
    ),
    'cmp_resnet50-plain_16xb16-42k_yfcc-256x256': (
        *('ResNet', 'PlainDecoder', (1, 2, 4), [YFCC]),
        *(256, 333, 49, 5.632e-5, 133, -1, 16, 16, 42_000),
    ),
    'cmp_resnet50-plain_16xb10-70k_yfcc-youtube-vip-mpii-320x320': (
        *('ResNet', 'PlainDecoder', (1, 2, 4), [YFCC, YOUTUBE, VIP, MPII]),
        *(320, 416, 15, 1.5625e-4, 80, -1, 10, 16, 70_000),
    ),
    'cmp_resnet50-skip_8xb8-42k_vip-mpii-384x384': (
        *('ResNet', 'SkipDecoder', (1, 2, 4, 8), [VIP, MPII]),
        *(384, 416, 41, 5.74e-5, 131, -1, 8, 8, 42_000),
    ),
}
# modern config: the faithful one it goes with, batch, GPUs
MODERN = {
    'cmp_alexnet-plain_modern-8xb24-amp-coslr-70k_yfcc-384x384': (
        *('cmp_alexnet-plain_16xb12-70k_yfcc-384x384', 24, 8),
    ),
    'cmp_resnet50-plain_modern-8xb20-amp-coslr-42k_yfcc-320x320': (
        *('cmp_resnet50-plain_16xb10-42k_yfcc-320x320', 20, 8),
    ),
    'cmp_resnet50-skip_modern-8xb8-amp-coslr-42k_vip-mpii-384x384': (
        *('cmp_resnet50-skip_8xb8-42k_vip-mpii-384x384', 8, 8),
    ),
}


def load(name):
    return Config.fromfile(ROOT / 'configs' / 'cmp' / f'{name}.py')


def step(pipeline, kind):
    (found,) = [transform for transform in pipeline if transform.type == kind]
    return found


def data_roots(dataset):
    return [source.data_root for source in dataset.sources] if 'sources' in dataset else [dataset.data_root]


@pytest.mark.parametrize(('name', 'row'), FAITHFUL.items())
def test_faithful_configs_hold_the_reference_s_numbers(name, row):
    encoder, decoder, combo, data, crop, short_side, kernel, ratio, stride, cap, batch, gpus, iters = row
    cfg = load(name)
    model, train, val = cfg.model, cfg.train_dataloader, cfg.val_dataloader
    assert (model.type, model.backbone.type, model.decoder.type) == ('CMP', encoder, decoder)
    assert tuple(model.decoder.combo) == combo
    assert model.guidance_encoder.stride == (32 if encoder == 'AlexNetFCN' else 8)
    # Whole, for the defaults are the reference's: every batch normalisation trains, not synchronised.
    if encoder == 'AlexNetFCN':
        assert dict(model.backbone) == dict(type='AlexNetFCN', stride=32)
    elif decoder == 'PlainDecoder':
        assert dict(model.backbone) == dict(type='ResNet', depth=50)
    else:
        assert dict(model.backbone) == dict(type='ResNet', depth=50, out_stem=True, out_indices=(0, 3))
    assert dict(model.codec) == dict(type='QuantizedFlowCodec', num_bins=99, max_flow=50.0)
    assert dict(model.loss) == dict(type='QuantizedFlowLoss')
    assert model.decoder.out_channels == 198
    assert model.get('use_guidance', True)
    preprocessor = model.data_preprocessor
    assert list(preprocessor['mean']) == [123.675, 116.28, 103.53]
    assert list(preprocessor['std']) == [58.395, 57.12, 57.375]
    assert preprocessor.bgr_to_rgb

    assert data_roots(train.dataset) == data
    for loader, cropping in ((train, 'FlowRandomCrop'), (val, 'FlowCenterCrop')):
        pipeline = loader.dataset.pipeline
        assert step(pipeline, 'FlowResize').short_side == short_side
        assert tuple(step(pipeline, cropping).size) == (crop, crop)
        guidance = step(pipeline, 'SampleGuidance')
        watershed, grid = guidance.strategies
        assert (watershed.type, watershed.kernel_size) == ('watershed', kernel)
        assert (grid.type, grid.bg_ratio) == ('grid', ratio)
        assert grid_stride(grid.bg_ratio) == stride
        assert guidance.max_points == cap
        # Flip, reverse, scale and rotation are off in the reference.
        assert len(pipeline) == 6
    assert train.batch_size == batch
    assert f'_{gpus}xb{batch}-{iters // 1000}k_' in name
    assert f'{crop}x{crop}' in name
    assert cfg.auto_scale_lr.base_batch_size == gpus * batch

    # No clipping, no accumulation, no rate of a layer's own.
    sgd = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper', optimizer=sgd)
    hooks = [hook.type for hook in cfg.custom_hooks]
    assert hooks == ['IterationSeedHook', 'FiniteLossHook', 'BroadcastBuffersHook'], 'none trains otherwise'
    (schedule,) = cfg.param_scheduler
    assert (schedule.type, schedule.by_epoch, schedule.gamma) == ('MultiStepLR', False, 0.1)
    assert list(schedule.milestones) == [iters * 4 // 7, iters * 6 // 7]
    assert cfg.train_cfg.max_iters == iters
    assert dict(model.init_cfg) == dict(type='cmp_mm.ReferenceInit', gain=0.02)
    assert 'sync_bn' not in cfg
    assert 'modern' not in name


@pytest.mark.parametrize(('name', 'row'), MODERN.items())
def test_modern_configs_differ_in_the_recipe_alone(name, row):
    base, batch, gpus = row
    cfg, faithful = load(name), load(base)
    # How it is computed, not what.
    assert cfg.model.data_preprocessor.pop('channels_last') is True
    is_plain = '-plain' in name
    assert cfg.model.data_preprocessor.pop('non_blocking', False) == is_plain
    assert cfg.model.pop('cuda_graph', False) == is_plain
    assert cfg.train_dataloader.get('pin_memory', False) == is_plain
    assert cfg.model == faithful.model
    assert cfg.train_dataloader.dataset == faithful.train_dataloader.dataset
    assert cfg.val_dataloader == faithful.val_dataloader
    assert cfg.auto_scale_lr == faithful.auto_scale_lr
    assert gpus * batch == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_dataloader.batch_size == batch
    assert f'modern-{gpus}xb{batch}-amp-coslr-' in name
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ('AmpOptimWrapper', 'bfloat16')
    assert (cfg.sync_bn, cfg.compile) == ('torch', False)
    warmup, cosine = cfg.param_scheduler
    assert (warmup.type, cosine.type) == ('LinearLR', 'CosineAnnealingLR')
    assert (warmup.begin, warmup.end, cosine.begin, cosine.end) == (0, 1000, 1000, cfg.train_cfg.max_iters)
    assert cfg.train_cfg.max_iters == faithful.train_cfg.max_iters
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    assert dict(cfg.optim_wrapper.optimizer) == optimizer and cfg.optim_wrapper.loss_scale == 1.0
    assert (warmup.start_factor, cosine.eta_min) == (0.01, 0)


@pytest.mark.parametrize(
    ('name', 'backbone', 'batch', 'lr', 'iters', 'points'),
    [
        ('resnet18-plain_quick-1xb16-800', ('ResNet', 18, None), 16, 2e-3, 800, [(15, 60)]),
        ('resnet18-plain_quick-1xb16-3k', ('ResNet', 18, None), 16, 2e-3, 3000, [(15, 60)]),
        (
            *('resnet18-plain_quick-k15or41-1xb16-3k', ('ResNet', 18, None), 16, 2e-3, 3000),
            [(15, 60), (41, 120)],
        ),
        (
            *('resnet18-plain_quick-camera-1xb16-3k', ('ResNet', 18, None), 16, 2e-3, 3000),
            [(15, 60), (41, 120)],
        ),
        ('resnet50-plain_quick-1xb4-800', ('ResNet', 50, None), 4, 1e-3, 800, [(15, 60)]),
        ('alexnet-plain_quick-1xb4-400', ('AlexNetFCN', None, 8), 4, 1e-3, 400, [(15, 60)]),
    ],
)
def test_quick_configs_hold_the_numbers_of_the_figures(name, backbone, batch, lr, iters, points):
    """Those that the readmes give; another recipe would have others."""
    cfg = load(f'cmp_{name}_pairs-96x96')
    model, pipeline = cfg.model, cfg.train_dataloader.dataset.pipeline
    assert (model.backbone.type, model.backbone.get('depth'), model.backbone.get('stride')) == backbone
    assert (model.codec.num_bins, model.codec.max_flow, tuple(model.decoder.combo)) == (
        61,
        15.0,
        (1, 2, 4, 8),
    )
    starts = model.backbone.get('init_cfg')
    assert [one.type for one in starts or []] == (['Kaiming', 'Constant'] if backbone[1] == 18 else [])
    choices = pipeline[-2].get('transforms', [[pipeline[-2]]])
    strategies = [guidance.strategies for (guidance,) in choices]
    assert [(watershed.kernel_size, grid.stride) for watershed, grid in strategies] == points
    assert step(pipeline, 'FlowResize').short_side == 112
    assert tuple(step(pipeline, 'FlowRandomCrop').size) == (96, 96)
    assert dict(cfg.optim_wrapper.optimizer) == dict(type='AdamW', lr=lr, weight_decay=0.01)
    assert dict(cfg.optim_wrapper.clip_grad) == dict(max_norm=5)
    warmup, cosine = cfg.param_scheduler
    assert (warmup.start_factor, warmup.end, cosine.eta_min, cosine.end) == (0.1, 20, 1e-5, iters)
    assert cfg.train_cfg.max_iters == iters
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == batch


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_line_of_the_log_is_of_the_iterations_since_the_one_before(path):
    cfg = Config.fromfile(path)
    assert cfg.log_processor.window_size == cfg.default_hooks.logger.interval


@pytest.mark.parametrize('name', [path.stem for path in CONFIGS if path.stem.startswith('walker')])
def test_walker_is_the_same_experiment_without_guidance(name):
    cfg, cmp = load(name), load(name.replace('walker_', 'cmp_'))
    assert cfg.model.pop('use_guidance') is False
    assert cfg.to_dict() == cmp.to_dict()


def test_walker_is_there_for_both_encoders():
    assert sum(path.stem.startswith('walker') for path in CONFIGS) == 2


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds(path):
    cfg = Config.fromfile(path)
    foreign = cfg.model.backbone.type.startswith('mmseg.')
    if foreign and importlib.util.find_spec('mmseg') is None:
        pytest.skip('needs mmseg')
    # Shapes are all that a config decides, so nothing is allocated (Swin's constructor reads a tensor).
    with torch.device('cpu' if foreign else 'meta'), torch.no_grad():
        model = MODELS.build({**cfg.model, 'data_preprocessor': nn.Identity()}).eval()
        output = model(dict(image=torch.empty(1, 3, 256, 256), guidance=torch.empty(1, 4, 256, 256)))
    assert output.shape[:2] == (1, cfg.model.decoder.out_channels)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert all(TRANSFORMS.build(transform) for transform in loader.dataset.pipeline)
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_evaluator == cfg.val_evaluator
    assert cfg.val_evaluator.codec == cfg.model.codec
    # One's own pairs are also measured with the correction that the demos offer.
    assert cfg.val_evaluator.get('corrected', False) == ('quick' in path.stem)
    assert cfg.default_scope == 'cmp_mm'


@pytest.mark.parametrize('name', ['cmp_resnet18-plain_quick-1xb16-800_pairs-96x96', *FAITHFUL])
def test_the_readmes_recipe_for_raw_flow_fits_the_configs(name, tmp_path):
    text = (ROOT / 'configs' / 'cmp' / 'README.md').read_text()
    recipe = text.partition('Raw flow instead of bins')[2].partition('```python\n')[2].partition('```')[0]
    file = tmp_path / 'raw.py'
    file.write_text(f"_base_ = '{ROOT}/configs/cmp/{name}.py'\n{recipe}")
    cfg = Config.fromfile(file)
    run_config.require_one_codec(cfg)
    with torch.device('meta'):
        model = MODELS.build({'_scope_': 'cmp_mm', **cfg.model, 'data_preprocessor': nn.Identity()})
    assert model.codec is None


def test_every_config_is_in_the_metafile_with_its_parameters():
    meta = yaml.safe_load((ROOT / 'configs' / 'cmp' / 'metafile.yml').read_text())
    models = {model['Name']: model for model in meta['Models']}
    assert set(models) == {path.stem for path in CONFIGS}
    for name in (*FAITHFUL, *MODERN):
        cfg = load(name)
        with torch.device('meta'):
            network = MODELS.build({**cfg.model, 'data_preprocessor': nn.Identity()})
        assert models[name]['Metadata']['Parameters'] == sum(p.numel() for p in network.parameters())


# The paper's tables 1 to 4: mIoU, and box / mask AP or single- / multi-person mIoU where there are two.
PAPER = {
    'VOC 2012, AlexNet': [48.0, 19.8, 39.7, 40.4, 42.9, 44.5],
    'VOC 2012, ResNet-50': [69.0, 42.4, 54.6, 54.5, 59.0],
    'COCO 2017, ResNet-50': [37.2, 34.1, 19.7, 18.8, 27.7, 25.8, 31.5, 29.2, 32.3, 29.8],
    'LIP, ResNet-50': [42.5, 55.4, 32.5, 35.0, 36.6, 50.9, 36.7, 52.5, 36.9, 51.8, 40.2, 52.9],
}


def test_the_paper_s_results_are_cited_as_they_are():
    text = (ROOT / 'configs' / 'cmp' / 'README.md').read_text().split("## The paper's results")[1]
    rows = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('|')]
    assert rows[0] == ['ImageNet', 'random', 'Pathak*', 'Walker*', 'CMP']
    cells = {name: re.sub(r'\([^)]*\)', '', ' '.join(values)) for name, *values in rows[2:]}
    assert {name: [float(x) for x in re.findall(r'[\d.]+', row)] for name, row in cells.items()} == PAPER


def test_no_figure_of_the_paper_is_given_as_our_own():
    paper = {value for row in PAPER.values() for value in row}
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    results = [
        result
        for path in index['Import']
        for model in yaml.safe_load((ROOT / path).read_text())['Models']
        for result in model['Results']
    ]
    assert len(results) > len(CONFIGS)
    for result in results:
        assert not paper & set((result['Metrics'] or {}).values()), result


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_training_is_shuffled_and_the_best_has_the_least_error(path):
    cfg = Config.fromfile(path)
    assert dict(cfg.train_dataloader.sampler) == dict(type='ResumableSampler', shuffle=True)
    assert dict(cfg.val_dataloader.sampler) == dict(type='DefaultSampler', shuffle=False)
    hook = cfg.default_hooks.checkpoint
    assert (hook.type, hook.by_epoch, hook.save_best, hook.rule) == (
        *('AtomicCheckpointHook', False),
        *('cmp/epe', 'less'),
    )
