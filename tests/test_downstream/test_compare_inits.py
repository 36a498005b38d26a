"""Initialisations are compared run by run; what is done is not done again."""

import contextlib
import importlib.util
import json
import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from cmp_mm.models import ResNet

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools' / 'benchmarks' / 'compare_inits.py'
CONFIGS = ROOT / 'configs' / 'downstream' / 'mmseg'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('compare_inits', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(mode, init, final, seed=0):
    return dict(mode=mode, init=init, seed=seed, final=final, curve=[(1, final / 2), (2, final)])


def test_mean_and_spread(tool):
    rows = tool.summarize([result('a', 'x', 10.0), result('a', 'x', 14.0, 1), result('a', 'y', 7.0)])
    assert rows[0]['mean'] == 12 and rows[0]['std'] == pytest.approx(8**0.5)
    assert rows[1]['std'] is None
    table = tool.render_table(rows, 'mIoU')
    assert '| a | x | 12.00 ± 2.83 | 10.00, 14.00 |' in table and '| a | y | 7.00 | 7.00 |' in table


def test_plot_is_written_whole(tool, tmp_path):
    tool.plot([result('a', 'x', 3.0), result('b', 'x', 4.0)], 'mIoU', tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')
    assert [path.name for path in tmp_path.iterdir()] == ['curves.png']


def test_inits(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('walker.pth').write_bytes(b'')
    assert tool.parse_init('random') == ('random', 'random')
    assert tool.parse_init('walker.pth') == ('walker', str(tmp_path / 'walker.pth'))
    assert tool.parse_init('base=walker.pth') == ('base', str(tmp_path / 'walker.pth'))
    with pytest.raises(ValueError, match='no such file'):
        tool.parse_init('cpm')
    Path('second.pth').write_bytes(b'')
    assert tool.parse_inits(['base=walker.pth', 'random', 'base=second.pth']) == dict(
        base=[str(tmp_path / 'walker.pth'), str(tmp_path / 'second.pth')], random=['random']
    )
    for folder in ('one', 'lr=0.1'):
        Path(folder).mkdir()
        Path(folder, 'backbone.pth').write_bytes(b'')
    assert tool.parse_init('lr=0.1/backbone.pth') == ('backbone', str(tmp_path / 'lr=0.1/backbone.pth'))
    assert tool.parse_init('a=lr=0.1/backbone.pth') == ('a', str(tmp_path / 'lr=0.1/backbone.pth'))
    assert tool.parse_init('a=https://b.org/c?d=e') == ('a', 'https://b.org/c?d=e')
    assert tool.parse_init('https://b.org/c?d=e')[1] == 'https://b.org/c?d=e'
    for texts in (
        ['one/backbone.pth', 'lr=0.1/backbone.pth'],
        ['one/backbone.pth', 'backbone=lr=0.1/backbone.pth'],
    ):
        with pytest.raises(ValueError, match="would both be called 'backbone'; give LABEL=FILE"):
            tool.parse_inits(texts)


def arguments(config):
    return Namespace(config=str(config), cfg_options={}, data_root=None, amp=False)


def test_a_config_without_a_start_to_choose(tool):
    config = ROOT / 'configs/cmp/cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'
    with pytest.raises(ValueError, match='its backbone has no init_cfg of type BackboneInit'):
        tool.make_config(arguments(config), 'random', 0, 'fine-tuned')


def test_more_pretrainings_than_seeds_are_refused(tool):
    tool.require_all_measured(dict(cmp=['a.pth', 'b.pth'], random=['random']), 2)
    with pytest.raises(ValueError, match=r"--seeds is 1; .* at least 2, as many as 'cmp' .* b.pth would not"):
        tool.require_all_measured(dict(cmp=['a.pth', 'b.pth'], random=['random']), 1)


def test_each_seed_has_its_own_labelled_images(tool, need, tmp_path):
    need('mmseg')
    config = tmp_path / 'few.py'
    base = CONFIGS / 'cmp_fcn_r18-3stages-d8_1xb8-1k_camvid-160x160.py'
    config.write_text(f"_base_ = '{base}'\nlabelled_draws = [[3, 1], [2, 5]]\n")
    for seed, indices in ((0, [3, 1]), (1, [2, 5]), (2, [3, 1])):
        cfg = tool.make_config(arguments(config), 'random', seed, 'fine-tuned')
        assert cfg.train_dataloader.dataset.indices == indices and 'labelled_draws' not in cfg


@pytest.mark.parametrize('network', ['r50', 'r18-3stages'])  # mmseg's class and cmp_mm's
def test_a_frozen_random_resnet_is_more_than_its_stem(tool, need, network):
    need('mmseg')
    config = CONFIGS / f'cmp_fcn_{network}-d8_1xb8-1k_camvid-160x160.py'
    args = arguments(config)
    args.cfg_options = {'model.backbone.zero_init_residual': True}
    cfg = tool.make_config(args, 'random', 0, 'frozen')
    assert cfg.model.backbone.zero_init_residual is False


def test_only_a_frozen_random_backbone_needs_statistics(tool, need):
    need('mmseg')
    config = CONFIGS / 'cmp_fcn_r50-d8_1xb8-1k_camvid-160x160.py'

    def hooks(source, mode):
        found = tool.make_config(arguments(config), source, 0, mode).get('custom_hooks', [])
        return [hook['type'] for hook in found].count('cmp_mm.BackboneStatisticsHook')

    assert hooks('random', 'frozen') == 1
    assert hooks('random', 'fine-tuned') == hooks('cmp', 'frozen') == 0


@pytest.mark.parametrize(
    ('init', 'message'),
    [
        ('cmp', 'checkpoints/cmp_resnet18_backbone.pth: there is no such file'),
        ('other.pth', 'other.pth does not fill ResNet (a ResNet of another depth or number of stages?)'),
    ],
)
def test_a_start_that_cannot_be_is_told_before_anything_is_trained(
    tool, need, tmp_path, monkeypatch, capsys, init, message
):
    need('mmseg')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, 'check_config', lambda _cfg: None)  # of data, which is not there
    monkeypatch.setattr(tool, 'train', lambda *_: pytest.fail('trained'))
    torch.save(dict(state_dict=ResNet(34, num_stages=3, out_indices=(2,)).state_dict()), 'other.pth')
    config = CONFIGS / 'cmp_fcn_r18-3stages-d8_1xb8-1k_camvid-160x160.py'
    monkeypatch.setattr(sys, 'argv', ['compare_inits', str(config), '--inits', 'random', init])
    assert tool.main() == 2
    assert message in capsys.readouterr().err


def test_shares_are_shown_to_their_fourth_digit(tool):
    row = dict(mode='fine-tuned', init='a', mean=0.32, std=0.002, values=[0.318, 0.322, 0.32])
    assert '| 0.3200 ± 0.0020 | 0.3180, 0.3220, 0.3200 |' in tool.render_table([row], 'coco/AP')


@pytest.mark.parametrize('name', ['seeds', 'jobs'])
def test_no_seed_and_no_job_are_refused(tool, monkeypatch, capsys, name):
    monkeypatch.setattr(sys, 'argv', ['compare_inits', 'config.py', f'--{name}', '0'])
    with pytest.raises(SystemExit):
        tool.parse_args()
    assert f'--{name} is 0; expected at least 1' in capsys.readouterr().err


@pytest.mark.parametrize(
    'name',
    ['cmp_fcn_r50-d8_1xb8-1k_ccp', 'cmp_fcn_r18-3stages-d8_1xb8-1k_ccp', 'cmp_fcn-32s_alexnet_1xb8-1k_ccp'],
)
def test_frozen_is_one_linear_layer(tool, need, name):
    need('mmseg')
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    cfg = Config.fromfile(CONFIGS / f'{name}-160x160.py')
    tool.freeze(cfg)
    cfg.model.backbone.pop('contract_dilation', None)
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    model.train()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {'decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'}


def test_other_labels_are_another_run(tool, tmp_path):
    (tmp_path / 'masks').mkdir()
    (tmp_path / 'masks' / 'a.png').write_bytes(b'1')
    dataset = dict(data_root=str(tmp_path), data_prefix=dict(seg_map_path='masks'), ann_file='')
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dataset))))
    first = tool.fingerprint(cfg, 'random')
    os.utime(tmp_path / 'masks' / 'a.png', ns=(1, 1))  # as a copy of it has another
    tool.contents.cache_clear()
    assert tool.fingerprint(cfg, 'random') == first
    (tmp_path / 'masks' / 'a.png').write_bytes(b'2')
    tool.contents.cache_clear()
    assert tool.fingerprint(cfg, 'random') != first
    (tmp_path / 'masks' / 'a.png').write_bytes(b'1')
    (tmp_path / 'masks' / b'\xe4.png'.decode(errors='surrogateescape')).write_bytes(b'1')
    tool.contents.cache_clear()
    assert tool.fingerprint(cfg, 'random') != first


@pytest.mark.parametrize('task', ['camvid', 'ccp', 'foreground', 'puppets'])
def test_other_files_of_a_small_set_are_another_run(tool, need, tmp_path, task):
    """These name a root alone."""
    need('mmseg')
    (config,) = CONFIGS.glob(f'cmp_fcn_r18-3stages-d8_*_{task}-*.py')
    args = arguments(config)
    args.data_root = str(tmp_path / 'data')
    (tmp_path / 'data' / 'masks').mkdir(parents=True)
    prints = []
    for content in (b'1', b'22'):
        (tmp_path / 'data' / 'masks' / 'a.png').write_bytes(content)
        for _ in range(2):  # what is written among the data by the comparison itself is none of it
            tool.contents.cache_clear()
            cfg = tool.make_config(args, 'random', 0, 'fine-tuned')
            prints.append(tool.fingerprint(cfg, 'random', tmp_path / 'data' / 'out'))
            (tmp_path / 'data' / 'out').mkdir(exist_ok=True)
            (tmp_path / 'data' / 'out' / 'a.png').write_bytes(content)
    assert prints[0] == prints[1] != prints[2] == prints[3]


@pytest.mark.parametrize('place', [0, 40, -1])
def test_any_byte_of_annotations_and_the_end_of_images_count(tool, tmp_path, monkeypatch, place):
    monkeypatch.setattr(tool, 'READ_OF_END', 10)
    data = bytearray(100)
    file = tmp_path / 'images' / 'a.jpg'
    file.parent.mkdir()
    file.write_bytes(data)
    in_folder, named = tool.contents(str(file.parent)), tool.contents(str(file))
    data[place] = 1
    file.write_bytes(data)
    tool.contents.cache_clear()
    assert tool.contents(str(file)) != named
    assert (tool.contents(str(file.parent)) != in_folder) is (place == -1)


def test_another_file_is_another_run(tool, tmp_path):
    cfg = Config(dict(a=1))
    (tmp_path / 'w.pth').write_bytes(b'1')
    first = tool.fingerprint(cfg, str(tmp_path / 'w.pth'))
    (tmp_path / 'w.pth').write_bytes(b'2')
    assert tool.fingerprint(cfg, str(tmp_path / 'w.pth')) != first
    assert tool.fingerprint(Config(dict(a=2)), str(tmp_path / 'w.pth')) != first


def test_data_root_reaches_inside_and_amp_the_optimizer(tool, need):
    need('mmseg')
    config = str(CONFIGS / 'cmp_fcn_r50-d8_4xb4-20k_voc12aug-512x512.py')
    args = Namespace(config=config, cfg_options={}, data_root='here', amp=False)
    cfg = tool.make_config(args, 'random', 3, 'fine-tuned')
    assert [part.data_root for part in cfg.train_dataloader.dataset.datasets] == ['here', 'here']
    assert cfg.val_dataloader.dataset.data_root == 'here' and cfg.randomness.seed == 3
    args.amp = True
    mixed = tool.make_config(args, 'random', 3, 'fine-tuned').optim_wrapper
    kind = 'AmpOptimWrapper' if torch.cuda.is_available() else 'cmp_mm.Bfloat16OptimWrapper'
    assert cfg.optim_wrapper.type == 'OptimWrapper' and mixed.type == kind
    assert mixed.optimizer == cfg.optim_wrapper.optimizer


def test_whole_comparison_and_again(
    tool, tmp_path, need, write_pairs, three_stages_file, monkeypatch, capsys
):
    need('mmseg')
    data, out = tmp_path / 'data', tmp_path / 'out'
    for split in ('train', 'val'):
        write_pairs(data / 'images' / split, data / 'masks' / split, 2, labels=(0, 3), size=(32, 32))
    command = ['compare_inits', str(CONFIGS / 'cmp_fcn_r18-3stages-d8_1xb8-1k_camvid-160x160.py')]
    other = shutil.copy(three_stages_file, tmp_path / 'other.pth')
    command += ['--inits', f'given={three_stages_file}', f'given={other}', '--seeds', '2']
    command += ['--data-root', str(data), '--out', str(out), '--jobs', '2']
    command += ['--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=1']
    for split in ('train', 'val', 'test'):
        command += [f'{split}_dataloader.num_workers=0', f'{split}_dataloader.persistent_workers=False']
    command += ['train_dataloader.batch_size=2', 'model.data_preprocessor.size=(32,32)']
    monkeypatch.setattr(sys, 'argv', command)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))  # for the training it starts

    assert tool.main() == 0
    report = json.loads((out / 'results.json').read_text())
    assert [row['init'] for row in report['summary']] == ['given']
    assert all(len(run['curve']) == 2 for run in report['runs'])
    assert [run['source'] for run in report['runs']] == [str(three_stages_file), str(other)]
    assert len(list(out.rglob('console.log'))) == 2
    table = (out / 'table.md').read_text()
    printed = capsys.readouterr().out
    assert table in printed and 'Iter(train)' in printed

    assert tool.main() == 0
    assert 'Iter(train)' not in capsys.readouterr().out
    assert (out / 'table.md').read_text() == table

    # Another metric is read from the logs there are, not from the results of the first.
    monkeypatch.setattr(sys, 'argv', [*command, '--metric', 'mAcc'])
    assert tool.main() == 0
    other = json.loads((out / 'results.json').read_text())
    assert other['metric'] == 'mAcc' and 'Iter(train)' not in capsys.readouterr().out
    assert other['summary'][0]['values'] != report['summary'][0]['values']
    monkeypatch.setattr(sys, 'argv', [*command, '--metric', 'nonsense'])
    assert tool.main() == 1 and "no 'nonsense' in the log" in capsys.readouterr().err

    # Results of earlier versions stay what they are, also where the logs were removed.
    results = {file: json.loads(file.read_text()) for file in out.rglob('result-*.json')}
    logs = tmp_path / 'logs'
    logs.mkdir()
    for number, (file, found) in enumerate(results.items()):
        del found['metric']
        file.write_text(json.dumps(dict(found, final=12.5)))
        shutil.move(file.parent / file.stem.removeprefix('result-'), logs / str(number))
    monkeypatch.setattr(sys, 'argv', command)
    assert tool.main() == 0 and '12.50, 12.50' in capsys.readouterr().out
    for number, file in enumerate(results):
        shutil.move(logs / str(number), file.parent / file.stem.removeprefix('result-'))

    # As a run that was killed in its last validation leaves it: made up for, not replaced by the one before.
    monkeypatch.setattr(sys, 'argv', command)
    for file in out.rglob('result-*.json'):
        file.unlink()
    for file in out.rglob('scalars.json'):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text(''.join(lines[: max(n for n, line in enumerate(lines) if 'mIoU' in line)]))
    with monkeypatch.context() as patch:
        patch.setattr(tool, 'train', lambda *args: None)
        assert tool.main() == 1 and 'ends with a validation at 1 of 2; remove' in capsys.readouterr().err
    assert tool.main() == 0
    assert (out / 'table.md').read_text() == table


def test_missing_data_is_one_line(tool, tmp_path, need, monkeypatch, capsys):
    need('mmseg')
    config = str(CONFIGS / 'cmp_fcn_r18-3stages-d8_1xb8-1k_ccp-160x160.py')
    nowhere = str(tmp_path / 'nowhere')
    monkeypatch.setattr(sys, 'argv', ['compare_inits', config, '--inits', 'random', '--data-root', nowhere])
    assert tool.main() == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and nowhere in error and 'coarse_map.json' in error


def test_every_run_has_its_seed_and_the_frozen_are_frozen(tool, need, tmp_path, monkeypatch):
    need('mmseg')
    seen, out = [], tmp_path / 'out'

    def one_run(cfg, source, metric, folder, known, prefix):
        frozen = cfg.model.backbone.get('frozen_stages', -1)
        seen.append((folder.relative_to(out).as_posix(), cfg.randomness.seed, frozen))
        return dict(known, final=1.0, curve=[(1, 1.0)]), True

    monkeypatch.setattr(tool, 'one_run', one_run)
    for name in ('check_config', 'check_starts', 'plot'):
        monkeypatch.setattr(tool, name, lambda *_: None)
    config = CONFIGS / 'cmp_fcn_r18-3stages-d8_1xb8-1k_camvid-160x160.py'
    command = ['compare_inits', str(config), '--inits', 'random', '--seeds', '2', '--frozen']
    monkeypatch.setattr(sys, 'argv', [*command, '--out', str(out)])
    assert tool.main() == 0
    assert sorted(seen) == [
        ('fine-tuned/random/seed0', 0, -1),
        ('fine-tuned/random/seed1', 1, -1),
        ('frozen/random/seed0', 0, 3),
        ('frozen/random/seed1', 1, 3),
    ]


def test_the_last_validation_counts_not_the_best(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'train', lambda *_: None)
    monkeypatch.setattr(tool, 'read_curve', lambda *_: [(1, 9.0), (2, 7.0)])
    folder = tmp_path / 'fine-tuned' / 'random' / 'seed0'
    found, is_new = tool.one_run(Config(dict(a=1)), 'random', 'mIoU', folder, dict(seed=0), '')
    assert is_new and (found['final'], found['best']) == (7.0, 9.0)


def test_a_training_that_fails_is_no_result(tool, tmp_path, monkeypatch):
    folder = tmp_path / 'fine-tuned' / 'random' / 'seed0'

    @contextlib.contextmanager
    def crashed(command, lock, **_):
        (Path(lock) / 'last_checkpoint').write_text('iter_2.pth')
        yield Namespace(stdout=['Iter(train) [2/4]\n', 'CUDA error\n'], returncode=1)

    monkeypatch.setattr(tool, 'child_process', crashed)
    monkeypatch.setattr(tool, 'read_curve', lambda *_: [(2, 9.0)])
    with pytest.raises(RuntimeError, match='(?s)failed; the end of .*CUDA error'):
        tool.one_run(Config(dict(a=1)), 'random', 'mIoU', folder, dict(seed=0), '')
    assert not list(folder.glob('result-*.json'))


def test_output_of_any_bytes_is_kept(tool, tmp_path, monkeypatch):
    """Names of files may be any."""
    (tmp_path / 'prints.py').write_text(
        "import sys; sys.stdout.buffer.write(b'\\xe4.png is broken\\n'); sys.exit(3)"
    )
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'prints.py').rename(tmp_path / 'tools' / 'train.py')
    with pytest.raises(RuntimeError, match='.png is broken'):
        tool.train(Config(dict(a=1)), tmp_path / 'run', '')


@pytest.mark.parametrize('key', ['bbox_file', 'headbox_file'])
def test_other_detections_are_another_run(tool, tmp_path, key):
    boxes, root = tmp_path / 'boxes.json', tmp_path / 'data'
    (root / 'images').mkdir(parents=True)
    boxes.write_text('[1]')
    dataset = dict(data_root=str(root), data_prefix=dict(img='images'), ann_file='absent.json')
    cfg = Config(dict(val_dataloader=dict(dataset={**dataset, key: str(boxes)})))
    first = tool.fingerprint(cfg, 'random')
    boxes.write_text('[2]')
    tool.contents.cache_clear()
    assert tool.fingerprint(cfg, 'random') != first
