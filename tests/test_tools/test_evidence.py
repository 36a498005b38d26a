"""The evidence tables: what is compared, and that one command makes each."""

import argparse
import contextlib
import importlib
import json
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cmp_mm.flow import write_flow
from cmp_mm.models import FlowDataPreprocessor
from cmp_mm.registry import DATASETS, MODELS

FOLDER = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks' / 'evidence'


@pytest.fixture(scope='module')
def tools():
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in ('recipes', 'propagation', 'transfer')}
    sys.path.remove(str(FOLDER))


@pytest.fixture
def need_probe(tools):
    pytest.importorskip('mmseg')
    return importlib.import_module('probe')


@pytest.fixture(scope='module')
def pairs(tmp_path_factory) -> Path:
    """Four pairs: the left half moves, the right half stands."""
    import cv2

    root = tmp_path_factory.mktemp('pairs')
    rng = np.random.default_rng(0)
    items = []
    for index in range(4):
        image = rng.integers(0, 255, (48, 64, 3), np.uint8)
        flow = np.zeros((48, 64, 2), np.float32)
        flow[:, :32, 0] = index + 1
        cv2.imwrite(str(root / f'{index}.png'), image)
        write_flow(flow, [root / f'{index}.flo'], 'flo')
        items.append(dict(img_path=f'{index}.png', img2_path=None, flow_path=f'{index}.flo'))
    for split in ('train', 'val'):
        annotation = dict(metainfo=dict(flow_format='flo'), data_list=items)
        (root / f'{split}.json').write_text(json.dumps(annotation))
    return root


@pytest.mark.parametrize(
    ('name', 'recipe'),
    [
        ('1xb16-800', 'cmp-kaiming'),
        ('1xb16-3k', 'cmp-kaiming'),
        ('k15or41-1xb16-3k', 'cmp-k15or41-kaiming'),
        ('camera-1xb16-3k', 'cmp-k15or41-camera-kaiming'),
    ],
)
def test_the_quick_configs_are_the_recipe_measured(tools, name, recipe):
    recipes = tools['recipes']
    config = Config.fromfile(recipes.ROOT / f'configs/cmp/cmp_resnet18-plain_quick-{name}_pairs-96x96.py')
    scale = recipes.Scale(iterations=config.train_cfg.max_iters)
    root = config.train_dataloader.dataset.data_root
    measured = recipes.pretraining_config(recipes.RECIPES[recipe], root, scale)
    for part in ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert config[part] == measured[part], part


def test_recipes_differ_in_what_they_say(tools, tmp_path):
    entries = [dict(video=str(index)) for index in range(30)]
    (tmp_path / 'train.json').write_text(json.dumps(dict(data_list=entries)))
    recipes = tools['recipes']
    scale = recipes.Scale(short_side=48, crop=32, iterations=12)
    configs = {
        name: recipes.pretraining_config(recipe, tmp_path, scale) for name, recipe in recipes.RECIPES.items()
    }
    own = {name for name, recipe in recipes.RECIPES.items() if recipe.data == 'pairs'}
    assert len({configs[name].pretty_text for name in own}) == len(own)
    walker = configs['walker']
    assert walker.model.use_guidance is False
    walker.model.pop('use_guidance')
    assert walker.pretty_text == configs['cmp'].pretty_text
    few = next(s for s in configs['cmp-4'].train_dataloader.dataset.pipeline if s.type == 'SampleGuidance')
    many = next(s for s in configs['cmp-4'].val_dataloader.dataset.pipeline if s.type == 'SampleGuidance')
    assert few.max_points == 4 and many.max_points == -1
    for cfg in configs.values():
        crop = next(s for s in cfg.train_dataloader.dataset.pipeline if s.type == 'FlowRandomCrop')
        assert tuple(crop.size) == (32, 32)
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 12


def test_blocks_at_zero_need_a_resnet(tools, tmp_path):
    recipes = tools['recipes']
    recipe = recipes.RECIPES['cmp-zero-kaiming']
    for backbone in ('resnet18', 'resnet50'):
        cfg = recipes.pretraining_config(recipe, tmp_path, recipes.Scale(), backbone=backbone)
        assert cfg.model.backbone.zero_init_residual is True
    with pytest.raises(ValueError, match='needs a ResNet; the backbone is AlexNetFCN'):
        recipes.pretraining_config(recipe, tmp_path, recipes.Scale(), backbone='alexnet')


def test_turned_motion_is_what_guidance_is_sampled_from(tools, tmp_path):
    recipes = tools['recipes']
    recipe = recipes.RECIPES['cmp-augmented-kaiming']
    steps = recipes.pretraining_config(recipe, tmp_path, recipes.Scale()).train_dataloader.dataset.pipeline
    names = [step['type'] for step in steps]
    places = [names.index(name) for name in ('FlowRandomRotate', 'FlowRandomScale', 'SampleGuidance')]
    assert places == sorted(places) and names[-1] == 'PackFlowInputs'


def test_a_pretraining_is_another_by_its_settings_seed_and_pairs(tools, tmp_path):
    recipes = tools['recipes']
    for split in ('train', 'val'):
        (tmp_path / f'{split}.json').write_text('{}')
    stamps = []

    def stamp(recipe='cmp', seed=0, **scale):
        config = recipes.pretraining_config(recipes.RECIPES[recipe], tmp_path, recipes.Scale(**scale), seed)
        stamps.append(recipes._stamp(config, tmp_path))
        return stamps[-1]

    assert stamp() == stamp()
    stamps.pop()
    stamp('walker'), stamp(seed=1), stamp(iterations=801), stamp(lr=1e-3)
    # Lists may be equal where another estimator made the flow.
    for preset in ('medium', 'ultrafast'):
        (tmp_path / 'settings.json').write_text(f'{{"estimator_options": {{"preset": "{preset}"}}}}')
        stamp()
    (tmp_path / 'train.json').write_text('{"data_list": []}')
    stamp()
    # Lists may be equal where another video of the same name and length was prepared, too.
    (tmp_path / 'train.json').write_text('{"data_list": [{"video": "a"}]}')
    (tmp_path / 'records').mkdir()

    def record(video, fingerprint, speed):
        made = dict(video=video, fingerprint=fingerprint, pairs=[[0, 48, 64, speed]])
        (tmp_path / 'records' / f'{video}.json').write_text(json.dumps(made))

    for speed in (1.2, 1.3):
        record('a', 1, speed)
        stamp()
    record('a', 2, 1.3)  # a copy
    record('b', 1, 5.0)  # of a video that is no longer in the lists
    assert stamp() == stamps[-2]
    stamps.pop()
    assert len(set(stamps)) == len(stamps) == 10


@pytest.mark.parametrize('name', ['cmp-kaiming', 'cmp-4-sgd'])
def test_a_recipe_in_bfloat16_differs_in_that_alone(tools, tmp_path, name):
    recipes = tools['recipes']
    plain, mixed = (
        recipes.pretraining_config(recipes.RECIPES[name], tmp_path, recipes.Scale(precision=precision))
        for precision in recipes.PRECISIONS
    )
    assert mixed.optim_wrapper.pop('type') == 'Bfloat16OptimWrapper'
    plain.optim_wrapper.pop('type', None)
    assert mixed.pretty_text == plain.pretty_text


def test_the_rates_of_a_fine_tuning_are_the_backbones_unless_they_are_given(tools, monkeypatch):
    def rates(*options):
        asked = ['--pairs', 'pairs', '--task', 'camvid', '--data-root', 'data', '--out', 'out', *options]
        monkeypatch.setattr(sys, 'argv', ['transfer.py', *asked])
        return tools['transfer'].parse_args().lr

    assert rates() == [5e-4, 1e-3, 2e-3]
    assert rates('--backbone', 'alexnet') == [3e-5, 1e-4, 3e-4]
    assert rates('--backbone', 'alexnet', '--lr', '1e-3') == [1e-3]


@pytest.mark.parametrize(('backbone', 'rate'), [('resnet18', 2e-3), ('resnet50', 1e-3), ('alexnet', 2e-4)])
def test_the_rate_of_a_pretraining_is_the_backbones_unless_it_is_given(tools, backbone, rate):
    recipes = tools['recipes']
    parser = argparse.ArgumentParser()
    recipes.add_scale(parser)
    recipes.add_backbone(parser)
    asked = ['--backbone', backbone]
    assert recipes.chosen_scale(parser.parse_args(asked)) == recipes.Scale(lr=rate)
    assert recipes.chosen_scale(parser.parse_args([*asked, '--pretrain-lr', '5e-4'])).lr == 5e-4
    given = [*asked, '--pretrain-crop', '64', '--pretrain-precision', 'bfloat16']
    assert recipes.chosen_scale(parser.parse_args(given)) == recipes.Scale(
        lr=rate, crop=64, precision='bfloat16'
    )


@pytest.mark.parametrize('backbone', ['resnet50', 'alexnet'])
def test_larger_backbones_are_the_same_experiment(tools, tmp_path, backbone):
    pytest.importorskip('mmseg')
    recipes, transfer = tools['recipes'], tools['transfer']
    recipe = recipes.RECIPES['cmp-kaiming']
    cfg, small = (
        recipes.pretraining_config(recipe, tmp_path, recipes.Scale(), backbone=name)
        for name in (backbone, 'resnet18')
    )
    assert cfg.model.cuda_graph and cfg.model.backbone.init_cfg == small.model.backbone.init_cfg
    with torch.device('meta'):
        model = MODELS.build({**cfg.model, '_scope_': 'cmp_mm', 'data_preprocessor': torch.nn.Identity()})
        output = model.eval()(dict(image=torch.empty(1, 3, 96, 96), guidance=torch.empty(1, 4, 96, 96)))
    assert output.shape == (1, 122, 12, 12)
    pretrained = cfg.model.backbone
    for key in ('model', 'work_dir'):
        cfg.pop(key, None), small.pop(key, None)
    assert cfg.to_dict() == small.to_dict()
    for task in ('camvid', 'ccp'):
        kind = Config.fromfile(transfer.task_file(task, backbone)).model.backbone.type
        assert kind == dict(resnet50='ResNet', alexnet='cmp_mm.AlexNetFCN')[backbone]
    args = argparse.Namespace(task='camvid', backbone=backbone, iterations=30)
    tuned = transfer.task_config(args, 1e-3, [0], None).model.backbone
    assert tuned.get('stride') == pretrained.get('stride')
    with pytest.raises(ValueError, match=f'puppets has no config for {backbone}, which has ccp, camvid'):
        transfer.task_file('puppets', backbone)


def test_a_comparison_is_given_what_was_asked(tools, tmp_path, monkeypatch):
    transfer, commands = tools['transfer'], []

    @contextlib.contextmanager
    def process(command):
        commands.append(' '.join(command))
        (tmp_path / 'results.json').write_text('{"metric": "mIoU"}')
        yield argparse.Namespace(wait=lambda: 0, returncode=0)

    monkeypatch.setattr(transfer, 'child_process', process)
    for asked in (False, True):
        args = argparse.Namespace(task='camvid', data_root='data', frozen=asked, amp=asked)
        backbones = dict(random=['random'], cmp=['a.pth', 'b.pth'])
        assert transfer.compare_inits(args, Config(), backbones, 2, tmp_path, 3) == dict(metric='mIoU')
    plain, both = commands
    assert '--inits random=random cmp=a.pth cmp=b.pth --seeds 2 --data-root data' in plain
    assert plain.endswith('--jobs 3') and '--amp' not in plain and '--frozen' not in plain
    assert '--amp' in both and '--frozen' in both


def test_every_task_of_the_small_backbone_has_a_config(tools):
    transfer = tools['transfer']
    assert all(transfer.task_file(task, 'resnet18').is_file() for task in transfer.TASKS)


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('propagation', '--jobs 0', "expected a whole number of at least 1, got '0'"),
        ('propagation', '--jobs two', "expected a whole number of at least 1, got 'two'"),
        ('propagation', '--max-images 0', "--max-images: expected a whole number of at least 1, got '0'"),
        ('propagation', '--numbers 4 -3', "expected a whole number of at least 0, got '-3'"),
        ('propagation', '--numbers 4 4', '--numbers: expected different values, got 4 more than once'),
        ('propagation', '--seed=-1', "--seed: expected a whole number of at least 0, got '-1'"),
        ('propagation', '--recipes cmp cmp', '--recipes: expected different values, got cmp more than once'),
        ('propagation', '--pretrain-seeds 0 1 0', 'expected different values, got 0 more than once'),
        ('propagation', '--pretrain-iterations 1', "expected a whole number of at least 2, got '1'"),
        ('transfer', '--labels 0', "--labels: expected a whole number of at least 1, got '0'"),
        ('transfer', '--labels 5 few', "--labels: expected a whole number of at least 1, got 'few'"),
        ('transfer', '--labels 5 5', '--labels: expected different values, got 5 more than once'),
        ('transfer', '--seeds 0', "--seeds: expected a whole number of at least 1, got '0'"),
        ('transfer', '--lr 1e-3 .001', '--lr: expected different values, got 0.001 more than once'),
    ],
)
def test_a_number_out_of_range_or_given_twice_is_refused(tools, monkeypatch, capsys, name, options, message):
    command = [f'{name}.py', '--pairs', 'a', '--out', 'c', *options.split()]
    command += ['--sets', 'a=b'] if name == 'propagation' else ['--task', 'camvid', '--data-root', 'data']
    monkeypatch.setattr(sys, 'argv', command)
    with pytest.raises(SystemExit):
        tools[name].parse_args()
    assert message in capsys.readouterr().err


def test_labels_that_are_all_there_are_count_as_all(tools):
    chosen = tools['recipes'].chosen_labels
    assert chosen(['5', '20', '21', 'all'], 20) == ['5', 'all']
    assert chosen(['500'], 20) == ['all'] and chosen(['19', '20'], 20) == ['19', 'all']


def test_too_few_labels_to_choose_a_rate_are_refused_before_anything_is_trained(
    tools, pairs, tmp_path, monkeypatch, capsys
):
    transfer = tools['transfer']
    monkeypatch.setattr(transfer, 'count_samples', lambda *_: 30)
    monkeypatch.setattr(transfer, 'pretrain_all', lambda *_: pytest.fail('trained'))
    command = ['transfer.py', '--pairs', str(pairs), '--task', 'camvid', '--data-root', 'data']
    monkeypatch.setattr(sys, 'argv', [*command, '--labels', 'all', '4', '--out', str(tmp_path)])
    assert transfer.main() == 1
    assert '--labels 4: expected 5 or more' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['transfer', 'probe'])
def test_no_pretraining_is_left_unmeasured(tools, pairs, tmp_path, monkeypatch, capsys, name):
    if name == 'probe':
        pytest.importorskip('mmseg')
    parse_args = importlib.import_module(name).parse_args
    command = [f'{name}.py', '--pairs', str(pairs), '--task', 'camvid', '--data-root', 'data']
    command += ['--labels', 'all', '--out', str(tmp_path), '--pretrain-seeds', '0', '1', '2']
    monkeypatch.setattr(sys, 'argv', [*command, '--seeds', '2'])
    with pytest.raises(SystemExit):
        parse_args()
    assert '--seeds is 2; expected at least 3, as many as --pretrain-seeds' in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', command)
    assert parse_args().seeds == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU can')
def test_mixed_precision_that_cannot_be_is_refused_before_anything_is_trained(
    tools, pairs, tmp_path, monkeypatch, capsys
):
    pytest.importorskip('mmpose')
    transfer = tools['transfer']
    monkeypatch.setattr(transfer, 'pretrain_all', lambda *_: pytest.fail('trained'))
    command = ['transfer.py', '--pairs', str(pairs), '--task', 'puppets-pose', '--data-root', 'data', '--amp']
    monkeypatch.setattr(sys, 'argv', [*command, '--out', str(tmp_path)])
    assert transfer.main() == 1
    assert '--amp on a CPU is bfloat16' in capsys.readouterr().err


def test_no_points_have_a_place_of_their_own_on_the_axis(tools, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, 'close', lambda figure: None)
    row = dict(mean=dict(network=[3.0, 2.0, 1.0], nearest=[3.0, 1.0, 0.5]), std=dict(network=[0.1, 0.1, 0.1]))
    row['images'] = 9
    tools['propagation'].plot(dict(clips=row), [0, 1, 4], tmp_path / 'points.png')
    axis = plt.gcf().axes[0]
    places = axis.transAxes.inverted().transform(axis.transData.transform([(x, 1.0) for x in (0, 1, 4)]))[
        :, 0
    ]
    assert (np.diff(places) > 0.1).all() and (places >= 0).all() and (places <= 1).all()
    monkeypatch.undo()
    plt.close('all')


def test_the_error_is_over_the_known_pixels(tools):
    flow, target = np.zeros((1, 3, 2), np.float32), np.float32([[[3, 4], [0, 1], [9, 9]]])
    epe = tools['propagation'].epe
    assert epe(flow, target, np.array([[True, True, False]])) == 3
    assert epe(flow[:, :2], target[:, :2], None) == 3


def test_the_network_measured_is_the_one_that_a_test_runs(tools, pairs):
    """On one image, guidance by the validation's pipeline: the same flow, so the same channel order too."""
    recipes, propagation = tools['recipes'], tools['propagation']
    init_default_scope('cmp_mm')
    scale = recipes.Scale(short_side=64, crop=64)
    cfg = recipes.pretraining_config(recipes.RECIPES['cmp'], pairs, scale)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.eval()
    dataset = DATASETS.build({**cfg.val_dataloader.dataset, 'lazy_init': False})
    sample = dataset[1]
    packed = sample['data_samples']
    batch = dict(inputs=dict(image=[sample['inputs']['image']]), data_samples=[packed.clone()])
    with torch.no_grad():
        (done,) = model.test_step(batch)
    (given,) = propagation.open_sets([f'pairs={pairs}/val.json'], cfg).values()
    image = given[1]['img']
    assert np.abs(image.astype(int) - image[..., ::-1]).mean() > 10  # it matters which channel is which
    guidance = (packed.guidance_points.numpy(), packed.guidance_vectors.numpy())
    flow = propagation.network_flows(model, image, [guidance])[0]
    expected = done.pred_flow.permute(1, 2, 0).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(flow, expected, atol=1e-4)


def test_points_are_nested_and_distinct(tools):
    flow = np.zeros((40, 50, 2), np.float32)
    flow[:, 20:, 0] = 5
    ordered = tools['propagation'].ordered_points
    points = ordered(flow, None, 32, seed=3)
    assert len(points) == len({tuple(point) for point in points.tolist()}) == 32
    np.testing.assert_array_equal(ordered(flow, None, 8, seed=3), points[:8])
    assert not np.array_equal(ordered(flow, None, 8, seed=4), points[:8])
    valid = np.zeros((40, 50), bool)
    valid[5:8, 5:8] = True
    points = ordered(flow, valid, 32, seed=0)
    assert len(points) == 9 and valid[points[:, 0], points[:, 1]].all()


def test_each_image_of_a_set_has_points_of_its_own(tools, pairs, monkeypatch):
    propagation, seeds = tools['propagation'], []
    ordered = propagation.ordered_points
    monkeypatch.setattr(
        propagation, 'ordered_points', lambda *args: (seeds.append(args[-1]), ordered(*args))[1]
    )
    cfg = tools['recipes'].pretraining_config(
        tools['recipes'].RECIPES['cmp'], pairs, tools['recipes'].Scale(short_side=64, crop=64)
    )
    init_default_scope('cmp_mm')
    (dataset,) = propagation.open_sets([f'pairs={pairs}/val.json'], cfg).values()
    for seed in (0, 0, 1):
        propagation.measure({}, dataset, argparse.Namespace(max_images=9, numbers=[1, 2], seed=seed))
    assert seeds[:4] == seeds[4:8] and len(set(seeds)) == 8


def test_gain_is_seed_by_seed(tools):
    summary = [
        dict(mode='fine-tuned', init='random', mean=20.0, std=10.0, values=[10.0, 20.0, 30.0]),
        dict(mode='fine-tuned', init='cmp', mean=22.0, std=10.0, values=[12.0, 22.0, 32.0]),
    ]
    rows = tools['transfer'].rows_of('10', dict(summary=[dict(row, lr=5e-4) for row in summary]))
    assert rows[1]['gain'] == 2 and rows[1]['gain_std'] == 0
    table = tools['transfer'].render_table(rows, 'mIoU')
    assert '| 10 | fine-tuned | cmp | 0.0005 | 22.0 ± 10.0 | +2.0 ± 0.0 | 12.0, 22.0, 32.0 |' in table


@pytest.mark.parametrize(('jobs', 'each'), [(1, 1), (5, 2)])
def test_each_initialisation_gets_the_rate_that_is_best_on_images_kept_out(
    tools, tmp_path, monkeypatch, jobs, each
):
    pytest.importorskip('mmseg')
    calls, shares = [], []

    def learn(args, cfg, backbones, seeds, out, jobs):
        """Random weights do best at .01; 'cmp' does at .001, and at .01 where nothing is kept out."""
        lr, trained = cfg.optim_wrapper.optimizer.lr, cfg.train_dataloader.dataset
        kept_out = cfg.val_dataloader.dataset.get('split') == 'train'
        scores = dict(random=50 if lr == 0.01 else 40, cmp=60 if (lr == 0.001) == kept_out else 30)
        draws = cfg.get('labelled_draws')
        calls.append((lr, sorted(backbones), seeds, list(trained.indices), cfg.val_dataloader.dataset, draws))
        shares.append(jobs)
        summary = [dict(mode='fine-tuned', init=b, mean=scores[b], std=None, values=[]) for b in backbones]
        return dict(summary=summary, runs=[], metric='mIoU')

    transfer = tools['transfer']
    monkeypatch.setattr(transfer, 'compare_inits', learn)
    args = argparse.Namespace(
        task='puppets',
        backbone='resnet18',
        iterations=30,
        seeds=3,
        lr=[0.01, 0.001],
        frozen=False,
        first=False,
        out=tmp_path,
        jobs=jobs,
    )
    report = transfer.compare(args, '10', 40, dict(random=['random'], cmp=['file']))
    assert [(row['init'], row['lr'], row['mean']) for row in report['summary']] == [
        ('random', 0.01, 50),
        ('cmp', 0.001, 30),
    ]
    assert report['tried'] == {0.01: dict(random=50, cmp=30), 0.001: dict(random=40, cmp=60)}
    assert shares == [each] * 4
    (first, second), final = (sorted(part, key=lambda call: -call[0]) for part in (calls[:2], calls[2:]))
    drawn = [np.random.default_rng(seed).permutation(40)[:10].tolist() for seed in range(3)]
    for _lr, names, seeds, indices, validation, _ in (first, second):
        assert (names, seeds, len(indices), len(validation.indices)) == (['cmp', 'random'], 1, 8, 2)
        assert sorted([*indices, *validation.indices]) == sorted(drawn[0])
        assert validation.pipeline[-1].type == 'PackSegInputs' and validation.pipeline[2].type != 'RandomCrop'
    assert [call[:4] for call in final] == [
        (0.01, ['random'], 3, drawn[0]),
        (0.001, ['cmp'], 3, drawn[0]),
    ]
    assert [call[5] for call in final] == [drawn, drawn]
    assert all(call[4].split == 'val' and 'indices' not in call[4] for call in final)
    with pytest.raises(ValueError, match='--labels 4: expected 5 or more'):
        transfer.compare(args, '4', 40, dict(random=['random']))
    args.lr = [0.01]
    calls.clear()
    assert transfer.compare(args, 'all', 40, dict(random=['random']))['tried'] == {}
    assert len(calls) == 1 and calls[0][3] == list(range(40)) and calls[0][5] is None
    args.first = True
    calls.clear()
    transfer.compare(args, '10', 40, dict(random=['random']))
    assert [call[5] for call in calls] == [[list(range(10))] * 3]


def test_pose_is_in_percent_and_chooses_its_rate_by_points_alone(tools):
    pytest.importorskip('mmpose')
    transfer = tools['transfer']
    run = dict(final=0.5, best=0.75, curve=[[10, 0.75], [20, 0.5]])
    summary = [dict(mean=0.5, std=None, values=[0.5]), dict(mean=0.5, std=0.25, values=[0.25, 0.75])]
    report = transfer.in_percent(dict(metric='PCK', summary=summary, runs=[run]))
    assert report['metric'] == 'PCK, %' and report['summary'][0] == dict(mean=50, std=None, values=[50])
    assert report['summary'][1] == dict(mean=50, std=25, values=[25, 75])
    assert report['runs'] == [dict(final=50, best=75, curve=[(10, 75), (20, 50)])]

    args = argparse.Namespace(task='puppets-pose', backbone='resnet18', iterations=30)
    cfg = transfer.task_config(args, 1e-3, [0, 2], [1])
    kept_out = cfg.val_dataloader.dataset
    assert kept_out.ann_file == cfg.train_dataloader.dataset.ann_file and kept_out.test_mode
    assert (cfg.train_dataloader.dataset.indices, kept_out.indices) == ([0, 2], [1])
    assert [metric.type for metric in cfg.val_evaluator] == ['PCKAccuracy']
    cfg = transfer.task_config(args, 1e-3, [0, 1, 2], None)
    assert cfg.val_dataloader.dataset.ann_file == 'keypoints_val.json'
    assert [metric.type for metric in cfg.val_evaluator] == ['PCKAccuracy', 'CocoMetric']
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].end == 30


def test_scores_are_drawn_a_panel_for_each_stage_or_mode(tools, tmp_path):
    from matplotlib.image import imread

    row = dict(init='random', labels='20', mean=3.0, std=None)
    sides = {}
    for stages in (('layer1',), ('layer1', 'layer2', 'layer3')):
        rows = [dict(row, stage=stage) for stage in stages]
        rows += [dict(row, stage=stages[0], labels='all', std=0.5), dict(row, stage=stages[-1], init='cmp')]
        tools['transfer'].plot(rows, 'mIoU', tmp_path / 'a.png', 'stage')
        sides[len(stages)] = imread(tmp_path / 'a.png').shape[:2]
    assert sides[3][0] == sides[1][0] and sides[3][1] > 2.5 * sides[1][1]


def test_probe_reads_what_is_linear_and_counts_directions(need_probe):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 3
    noise = torch.randn(600, 6, generator=generator)
    direct = torch.cat([torch.nn.functional.one_hot(y, 3).float() * 9, noise[:, 3:]], 1)
    score, _ = need_probe.accuracy([dict(x=direct[:300], y=y[:300])], [dict(x=direct[300:], y=y[300:])], 3)
    assert score == 100
    score, rank = need_probe.accuracy([dict(x=noise[:300], y=y[:300])], [dict(x=noise[300:], y=y[300:])], 3)
    assert 20 < score < 47 and rank == pytest.approx(6, abs=0.3)
    copies = noise[:, :2].repeat(1, 3)
    _, rank = need_probe.accuracy([dict(x=copies, y=y)], [dict(x=copies, y=y)], 3)
    assert rank == pytest.approx(2, abs=0.05)
    # Classes count the same, however rare: all of class 0 right, a tenth of the pixels, and no other.
    rare = torch.where(torch.arange(600) % 10 == 0, 0, 1)
    flat = [dict(x=torch.zeros(600, 2), y=rare)]
    assert need_probe.accuracy(flat, flat, 2)[0] == 50


def test_probe_goes_through_pretrainings_and_draws(need_probe, monkeypatch):
    described = []

    def describe(weights, images, _classes, _name):
        if len(images) == 12:
            described.append(weights)
        x = torch.randn(len(images), 30, 4, generator=torch.Generator().manual_seed(len(described)))
        return [[dict(x=one, y=torch.arange(30) % 2) for one in x] for _ in range(4)]

    monkeypatch.setattr(
        need_probe, 'load_images', lambda _cfg, split, _side: [0] * dict(train=12, val=3)[split]
    )
    monkeypatch.setattr(
        need_probe, 'backbone', lambda _name, weights, seed, _images: weights or f'random {seed}'
    )
    monkeypatch.setattr(need_probe, 'describe', describe)
    args = argparse.Namespace(short_side=8, seeds=3, labels=['4', 'all'], backbone='resnet50')
    cfg = Config(dict(model=dict(decode_head=dict(num_classes=2))))
    rows = need_probe.measure(args, cfg, dict(random=[None] * 3, one=['a'], two=['b', 'c']))
    assert described == ['random 0', 'random 1', 'random 2', 'a', 'b', 'c', 'b']
    for row in rows:
        several = len(row['values']) > 1
        assert row['std'] == (statistics.stdev(row['values']) if several else None)
    counts = {(row['init'], row['labels']): len(row['values']) for row in rows}
    # With all labels only other weights make another result.
    assert counts == {
        ('random', '4'): 3,
        ('random', 'all'): 3,
        ('one', '4'): 3,
        ('one', 'all'): 1,
        ('two', '4'): 3,
        ('two', 'all'): 2,
    }
    assert {row['stage'] for row in rows} == {'layer1', 'layer2', 'layer3', 'layer4'}


def test_probe_learns_from_the_draws_and_is_measured_on_the_validation_images(need_probe, monkeypatch):
    used = []

    def describe(_model, images, _classes, _name):
        return [[dict(image=image) for image in images] for _ in range(3)]

    def accuracy(train, val, _classes):
        used.append(([one['image'] for one in train], [one['image'] for one in val]))
        return 50.0, 1.0

    images = dict(train=[f'train {i}' for i in range(9)], val=['val 0', 'val 1'])
    monkeypatch.setattr(need_probe, 'load_images', lambda _cfg, split, _side: images[split])
    monkeypatch.setattr(need_probe, 'backbone', lambda *_: None)
    monkeypatch.setattr(need_probe, 'describe', describe)
    monkeypatch.setattr(need_probe, 'accuracy', accuracy)
    args = argparse.Namespace(short_side=8, seeds=2, labels=['4'], backbone='resnet18')
    need_probe.measure(args, Config(dict(model=dict(decode_head=dict(num_classes=2)))), dict(one=['a']))
    drawn = [np.random.default_rng(seed).permutation(9)[:4] for seed in range(2)]
    expected = [([f'train {i}' for i in draw], images['val']) for draw in drawn for _ in range(3)]
    assert used == expected


def test_probe_shows_the_network_what_it_was_trained_on(need_probe):
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # as a sample is packed: BGR
    seen = FlowDataPreprocessor()(dict(inputs=dict(image=[planes])))
    torch.testing.assert_close(need_probe.normalized(image), seen['inputs']['image'])


@pytest.mark.parametrize(
    ('name', 'widths'),
    [('resnet18', (64, 128, 256)), ('resnet50', (256, 512, 1024, 2048)), ('alexnet', (384, 256, 4096))],
)
def test_probe_describes_the_stages_of_each_backbone(need_probe, tmp_path, name, widths):
    rng = np.random.default_rng(0)
    images = [(rng.integers(0, 255, (64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)) for _ in range(2)]
    random = need_probe.backbone(name, None, 0, images)
    found = need_probe.describe(random, images, 2, '')
    assert [stage[0]['x'].shape[1] for stage in found] == list(widths) and len(found[0]) == 2
    # Running statistics are those of the images: what is described is neither dead nor huge.
    assert all(0.01 < torch.cat([one['x'] for one in stage]).std() < 100 for stage in found)
    torch.save(dict(state_dict=random.state_dict()), tmp_path / 'backbone.pth')
    loaded = need_probe.describe(
        need_probe.backbone(name, str(tmp_path / 'backbone.pth'), 1, images), images, 2, ''
    )
    assert torch.equal(loaded[-1][0]['x'], found[-1][0]['x'])


def test_propagation_end_to_end_and_again(tools, pairs, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    size = ['--pretrain-short-side', '64', '--pretrain-crop', '64', '--pretrain-iterations', '2']
    monkeypatch.chdir(pairs.parent)
    sets = ['--sets', f'halves={pairs.name}/val.json', '--numbers', '1', '4', '--recipes', 'cmp-4', 'walker']
    command = ['propagation.py', '--pairs', str(pairs), '--out', str(out), '--pretrain-batch-size', '2']
    monkeypatch.setattr(sys, 'argv', [*command, *size, *sets])
    assert tools['propagation'].main() == 0
    report = json.loads((out / 'propagation.json').read_text())
    mean = report['sets']['halves']['mean']
    assert report['sets']['halves']['images'] == 4
    # Half of a crop moves by (index + 1) * 64 / 48 pixels.
    assert mean['zero'][0] == pytest.approx(2.5 * 64 / 48 / 2, rel=0.1)
    assert mean['zero'][0] == mean['zero'][1] and mean['walker'][0] == mean['walker'][1]
    assert mean['nearest'][1] < mean['nearest'][0]
    for method in ('cmp-4', 'walker'):
        assert np.isfinite(mean[method]).all()
        # Of an untrained network, wrong everywhere, the points mend most: it ends near their interpolation.
        corrected = mean[f'{method}, corrected']
        assert corrected[0] < mean[method][0] and corrected[-1] < 0.8 * corrected[0]
        assert abs(corrected[-1] - mean['idw'][-1]) < 0.5 * mean[method][-1]
    cfg = Config.fromfile(report['pretrained']['walker'][0]['config'])
    assert cfg.model.use_guidance is False
    # Of two pretrainings: their mean and spread, the baselines' figures as they were.
    monkeypatch.setattr(
        sys, 'argv', [*command, *size, *sets[:-1], '--pretrain-seeds', '0', '1', '--jobs', '2']
    )
    assert tools['propagation'].main() == 0
    report = json.loads((out / 'propagation.json').read_text())
    both = report['sets']['halves']
    assert [one['seed'] for one in report['pretrained']['cmp-4']] == [0, 1]
    assert set(both['std']) == {'cmp-4', 'cmp-4, corrected'} and ' ± ' in capsys.readouterr().out
    # mean - other mean = half the difference, and so is the spread but for the root of 2.
    difference = np.abs(np.subtract(both['mean']['cmp-4'], mean['cmp-4']))
    np.testing.assert_allclose(both['std']['cmp-4'], difference * 2**0.5, rtol=1e-6)
    assert (difference > 0).all() and both['mean']['nearest'] == mean['nearest']
    assert (out / 'propagation.png').read_bytes().startswith(b'\x89PNG')

    def refuse(*_args):
        raise AssertionError('trained again')

    monkeypatch.setattr(tools['recipes'], 'run', refuse)
    assert tools['propagation'].main() == 0
    assert '**' in capsys.readouterr().out
    # Moved, and named from another directory.
    moved = out.rename(tmp_path / 'moved')
    monkeypatch.chdir(tmp_path)
    command[command.index('--out') + 1] = 'moved'
    monkeypatch.setattr(sys, 'argv', [*command, *size, '--sets', f'halves={pairs}/val.json', *sets[2:]])
    assert tools['propagation'].main() == 0
    report = json.loads((moved / 'propagation.json').read_text())
    assert Path(report['pretrained']['walker'][0]['checkpoint']).parent.parent == Path('moved')


def test_propagation_tells_a_moving_camera_and_what_is_left_of_the_arrows(tools, monkeypatch):
    propagation = tools['propagation']
    turning = np.broadcast_to(np.float32([6, -2]), (32, 32, 2)).copy()
    turning[:4, :4] = 0  # one thing that moves along
    passing = np.zeros((32, 32, 2), np.float32)
    passing[:, :12] = (3, 0)

    class Pairs(list):
        ann_file = 'set/val.json'

    # Where the flow is not known it says nothing: here that the rest stands.
    known = np.zeros((32, 32), bool)
    known[8:] = True
    half_known = np.where(known[..., None], 2 * np.float32([6, -2]), np.float32(0))
    flows = [(turning, None), (passing, None), (half_known, known)]
    dataset = Pairs(
        dict(img=np.zeros((32, 32, 3), np.uint8), flow=flow, flow_valid=valid) for flow, valid in flows
    )

    def part_of_the_first(model, _image, sets):
        """Everywhere ``model`` of the first arrow's motion."""
        return np.stack([np.broadcast_to(model * vectors[0], (32, 32, 2)) for _, vectors in sets])

    monkeypatch.setattr(propagation, 'network_flows', part_of_the_first)
    args = argparse.Namespace(max_images=9, numbers=[1, 2], seed=0)
    measured = propagation.measure(dict(cmp=[0.4, 0.6]), dataset, args)
    assert measured['images'] == 3
    moves, stands = measured['camera moves'], measured['camera stands']
    assert (moves['images'], stands['images']) == (2, 1)
    for name, row in measured['mean'].items():
        parts = (np.multiply(2, moves['mean'][name]) + stands['mean'][name]) / 3
        np.testing.assert_allclose(row, parts, rtol=1e-6)
    assert moves['mean']['zero'][0] == pytest.approx(np.hypot(6, 2) * (3 - 16 / 1024) / 2, rel=1e-5)
    assert stands['mean']['zero'][0] == pytest.approx(3 * 12 / 32)
    assert measured['kept']['cmp'][0] == pytest.approx(0.5)  # with one arrow, whichever it is
    assert moves['kept']['cmp'][0] == pytest.approx(0.5)
    assert stands['kept']['cmp'][0] is None  # its one arrow stands
    assert 0 < moves['std']['cmp, corrected'][0] < moves['std']['cmp'][0] / 2
    text = propagation.render(measured, args.numbers)
    assert '3 images |' in text and '2 images, camera moves |' in text and '1 images, camera stands |' in text
    assert '| cmp | 50 |' in text and '| cmp, camera moves | 50 |' in text
    # The correction alone, without a network: between no motion and inverse distance.
    faded, idw = measured['mean']['idw, faded'], measured['mean']['idw']
    silent = propagation.measure(dict(cmp=[0.0]), dataset, args)['mean']
    assert silent['cmp, corrected'] == faded != idw and silent['cmp'] == measured['mean']['zero']
    # Below and above four fifths of the error of no motion: of what stands on a share p twice p is left.
    for standing, is_so in ((39, True), (41, False)):
        flow = np.zeros((100, 10, 2), np.float32)
        flow[standing:] = (1, 0)
        assert propagation.camera_moves(flow, None) is is_so
    # One slope over all arrows, long ones counting more.
    flows, sets = np.zeros((2, 4, 4, 2)), [(np.array([[1, 1]]), np.array([[v, 0.0]])) for v in (1, 3)]
    flows[0, 1, 1, 0] = 1
    assert propagation.kept(flows, sets) == [[1, 1], [0, 9]]
    # Of one kind only there is nothing to tell apart; without motion at the points nothing to keep.
    still = propagation.measure(dict(cmp=[1.0]), Pairs(dataset[:1]), args)
    assert 'camera moves' not in still and 'camera stands' not in still
    nothing = Pairs([dict(dataset[0], flow=0 * turning)])
    assert propagation.measure(dict(cmp=[1.0]), nothing, args)['kept']['cmp'] == [None, None]


@pytest.mark.parametrize(
    'sets, message',
    [
        ('nameless.txt', 'expected NAME=ANNOTATION'),
        ('a=b/missing.txt', 'missing.txt'),
        ('a=HERE/gone.txt', 'were bad; their files'),
        ('a=PAIRS/val.json a=PAIRS/train.json', 'expected another name, a is of an earlier set'),
    ],
)
def test_a_wrong_set_is_one_line_before_anything_is_trained(
    tools, pairs, tmp_path, monkeypatch, capsys, sets, message
):
    (tmp_path / 'gone.txt').write_text('a.png b.png c.flo\n')
    sets = sets.replace('HERE', str(tmp_path)).replace('PAIRS', str(pairs))
    command = ['propagation.py', '--pairs', str(pairs), '--sets', *sets.split(), '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', command)
    monkeypatch.setattr(tools['recipes'], 'run', lambda *_: pytest.fail('trained'))
    assert tools['propagation'].main() == 1
    error = capsys.readouterr().err.strip()
    (said,) = (line for line in error.splitlines() if line.startswith('propagation: '))
    assert message in said
    assert 'gone' in sets or '\n' not in error  # where images lack, their names follow


@pytest.mark.parametrize('name', ['propagation', 'transfer'])
def test_a_wrong_folder_is_one_line(tools, tmp_path, monkeypatch, capsys, name):
    command = [f'{name}.py', '--pairs', str(tmp_path), '--out', str(tmp_path / 'out')]
    command += ['--sets', 'a=b'] if name == 'propagation' else ['--task', 'puppets', '--data-root', 'x']
    monkeypatch.setattr(sys, 'argv', command)
    assert tools[name].main() == 1
    error = capsys.readouterr().err.strip()
    assert '\n' not in error and 'video2pairs.py' in error


def test_two_folders_of_pairs_need_two_names(tools, pairs):
    chosen = tools['recipes'].chosen_pairs
    assert list(chosen(argparse.Namespace(pairs=[str(pairs), f'fast={pairs}']))) == ['pairs', 'fast']
    with pytest.raises(ValueError, match='expected a name that no other folder has'):
        chosen(argparse.Namespace(pairs=[str(pairs), str(pairs)]))


@pytest.mark.parametrize('size', [(160, 213), (161, 200), (96, 95)])
def test_labels_are_read_where_the_features_look(need_probe, size):
    """Cells of a padded convolution of stride s are centred on pixels 0, s, 2s, ..."""
    rng = np.random.default_rng(0)
    image = np.repeat(rng.integers(0, 256, (*size, 1), dtype=np.uint8), 3, axis=2)
    labels = image[..., 0] // 64

    def at_every(stride):
        convolution = torch.nn.Conv2d(3, 1, 3, stride, padding=1, bias=False)
        with torch.no_grad():
            convolution.weight.zero_()
            convolution.weight[0, :, 1, 1] = torch.tensor(need_probe.FlowDataPreprocessor().std).flatten() / 3
        return convolution

    convolutions = [at_every(stride) for stride in (4, 8, 8)]
    stages = need_probe.describe(
        lambda planes: [one(planes) for one in convolutions], [(image, labels)], 4, ''
    )
    mean = need_probe.FlowDataPreprocessor().mean.mean()
    for (found,), stride in zip(stages, (4, 8, 8), strict=True):
        assert len(found['x']) == -(-size[0] // stride) * -(-size[1] // stride)
        assert torch.equal((found['x'][:, 0] + mean).round().long() // 64, found['y'])


def test_a_frozen_row_is_compared_with_frozen_random_weights(tools):
    def row(mode, init, *values):
        return dict(mode=mode, init=init, mean=0.0, std=None, values=list(values), lr=1e-3)

    summary = [row('fine-tuned', 'random', 10.0, 20.0), row('frozen', 'random', 1.0, 2.0)]
    rows = tools['transfer'].rows_of('all', dict(summary=[*summary, row('frozen', 'cmp', 2.0, 6.0)]))
    assert rows[2]['gain'] == 2.5 and rows[2]['gain_std'] == pytest.approx(4.5**0.5)


def test_a_recipe_is_trained_on_its_pairs_with_the_backbone_asked_for(tools, tmp_path, monkeypatch):
    recipes = tools['recipes']
    for name in ('usual', 'lr=1'):
        (tmp_path / name).mkdir()
        for split in ('train', 'val'):
            (tmp_path / name / f'{split}.json').write_text('{}')
    monkeypatch.setattr(recipes, 'run', lambda *_: None)
    monkeypatch.setattr(recipes, 'read_scalars', lambda _: [])
    scale = {f'pretrain_{key}': value for key, value in vars(recipes.Scale()).items()}
    args = argparse.Namespace(
        pairs=[str(tmp_path / 'lr=1'), f'exact={tmp_path / "usual"}'],
        recipes=['cmp-4-exact', 'cmp-4'],
        backbone='resnet50',
        pretrained=tmp_path / 'out',
        out=None,
        jobs=1,
        pretrain_seeds=[0],
        pretrain_workers=1,
        **scale,
    )
    found = recipes.pretrain_all(args)
    for name, folder in (('cmp-4-exact', 'usual'), ('cmp-4', 'lr=1')):
        cfg = Config.fromfile(found[name][0]['config'])
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            assert loader.dataset.data_root == str((tmp_path / folder).resolve())
        assert cfg.model.backbone.depth == 50


def test_unknown_motion_neither_guides_nor_counts(tools):
    flow, valid, used = np.zeros((12, 16, 2), np.float32), np.zeros((12, 16), bool), []
    valid[:, 4:] = True
    flow[valid] = (3, 4)

    class Five:
        ann_file = 'clips/val.json'

        def __len__(self):
            return 5

        def __getitem__(self, index):
            used.append(index)
            return dict(flow=flow, flow_valid=valid, img=None)

    args = argparse.Namespace(max_images=2, numbers=[1, 4], seed=0)
    found = tools['propagation'].measure({}, Five(), args)
    assert used == [0, 4] and found['images'] == 2
    assert found['mean']['zero'] == pytest.approx([5, 5])
    assert found['mean']['nearest'] == pytest.approx([0, 0])


def test_the_least_error_is_bold(tools):
    measured = dict(images=2, mean=dict(cmp=[1.0, 3.0], zero=[5.0, 2.0]), std=dict(cmp=[0.5, 0.25]))
    table = tools['propagation'].render_table(measured, [1, 4])
    assert '| cmp | **1.00** ± 0.50 | 3.00 ± 0.25 |' in table
    assert '| zero | 5.00 | **2.00** |' in table


def test_probe_loads_the_split_it_is_asked_for(need_probe, monkeypatch):
    def build(settings):
        return [dict(img=settings.name, gt_seg_map=settings.pipeline[-1].scale)]

    monkeypatch.setattr(need_probe, 'ROOT_DATASETS', argparse.Namespace(build=build))
    loaders = {f'{split}_dataloader': dict(dataset=dict(name=split)) for split in ('train', 'val')}
    for split in ('train', 'val'):
        (found,) = need_probe.load_images(Config(loaders), split, 64)
        assert found == (split, (100_000, 64))


def test_what_fails_is_told(tools, tmp_path, monkeypatch):
    (tmp_path / 'fails.py').write_text(
        "import sys; sys.stdout.buffer.write(b'the reason, \\xe4.png\\n'); sys.exit(3)"
    )
    with pytest.raises(RuntimeError, match=r'(?s)fails\.py failed; the end of .*the reason'):
        tools['recipes'].run([tmp_path / 'fails.py'], tmp_path / 'console.log')

    @contextlib.contextmanager
    def process(command):
        yield argparse.Namespace(wait=lambda: 1, returncode=1)

    monkeypatch.setattr(tools['transfer'], 'child_process', process)
    (tmp_path / 'results.json').write_text('{"metric": "mIoU"}')  # of an earlier run
    args = argparse.Namespace(task='camvid', data_root='d', frozen=False, amp=False)
    with pytest.raises(RuntimeError, match='failed; run the same command again'):
        tools['transfer'].compare_inits(args, Config(), dict(random=['random']), 1, tmp_path, 1)


def test_recipes_are_what_they_say(tools, tmp_path):
    recipes = tools['recipes']
    most = {'cmp-2': 2, 'cmp-1to32': (1, 32), 'cmp-0to4-kaiming': (0, 4)}
    videos = [f'{index // 3:02d}' for index in range(90)][::-1]  # 30 of three pairs, not in order
    (tmp_path / 'train.json').write_text(json.dumps(dict(data_list=[dict(video=name) for name in videos])))
    for name, recipe in recipes.RECIPES.items():
        cfg = recipes.pretraining_config(recipe, tmp_path, recipes.Scale())
        steps = cfg.train_dataloader.dataset.pipeline
        if 'k15or41' not in name:
            (guidance,) = [step for step in steps if step['type'] == 'SampleGuidance']
            limit = guidance['max_points']
            limit = limit if isinstance(limit, int) else tuple(limit)
            assert limit == most.get(name, 4 if name.startswith('cmp-4') else -1), name
            spacing = guidance['strategies'][0]['kernel_size'], guidance['strategies'][1]['stride']
            assert spacing == ((41, 120) if 'k41' in name else (15, 60)), name
        assert ('init_cfg' in cfg.model.backbone) == ('kaiming' in name), name
        assert cfg.optim_wrapper.optimizer.type == ('SGD' if 'sgd' in name else 'AdamW'), name
        assert (cfg.model.get('use_guidance') is False) == name.startswith('walker'), name
        assert any(hook['type'] == 'BinPriorHook' for hook in cfg.custom_hooks) == ('prior' in name), name
        number = int((re.search(r'(\d+)videos', name) or [0, 0])[1])
        indices = cfg.train_dataloader.dataset.get('indices')
        if number:
            chosen = sorted({videos[index] for index in indices})
            assert len(indices) == 3 * number and len(chosen) == number, name
            assert chosen == [f'{30 * index // number:02d}' for index in range(number)], name  # far apart
        else:
            assert indices is None, name
        assert 'indices' not in cfg.val_dataloader.dataset, name


def test_fewer_videos_than_a_recipe_expects(tools, tmp_path):
    recipes = tools['recipes']
    (tmp_path / 'train.json').write_text(json.dumps(dict(data_list=[dict(video='one')])))
    with pytest.raises(
        ValueError, match=f'^{tmp_path}: videos to train on: 1; the recipe expects at least 6$'
    ):
        recipes.pretraining_config(recipes.RECIPES['cmp-k15or41-6videos-kaiming'], tmp_path, recipes.Scale())


def test_pairs_by_name_may_lie_where_a_path_has_the_sign(tools, tmp_path):
    folder = tmp_path / 'lr=1'
    folder.mkdir()
    (folder / 'train.json').write_text('{}')
    for text, name in ((f'exact={folder}', 'exact'), (str(folder), 'pairs')):
        assert tools['recipes'].chosen_pairs(argparse.Namespace(pairs=[text])) == {name: folder.resolve()}
