"""The base dataset configs: the numbers of the method, and the reference's layout read as it is."""

from pathlib import Path

import pytest
from mmengine import Config
from mmengine.registry import DefaultScope

from cmp_mm.datasets import SampleGuidance
from cmp_mm.guidance import grid_stride
from cmp_mm.guidance.strategies import PAPER_KERNEL_SIZE
from cmp_mm.registry import DATA_SAMPLERS, DATASETS

FOLDER = Path(__file__).parents[2] / 'configs/_base_/datasets'
# file: (short side, crop, batch size, folders of the training lists, validation list)
EXPECTED = {
    'yfcc_flow_384x384': (416, 384, 12, ['yfcc'], 'yfcc/lists/val.txt'),
    'yfcc_flow_320x320': (416, 320, 10, ['yfcc'], 'yfcc/lists/val.txt'),
    'yfcc_flow_256x256': (333, 256, 16, ['yfcc'], 'yfcc/lists/val.txt'),
    'yfcc-youtube_flow_384x384': (416, 384, 12, ['yfcc', 'youtube9k'], 'yfcc/lists/val.txt'),
    'yfcc-youtube-vip-mpii_flow_320x320': (
        416,
        320,
        10,
        ['yfcc', 'youtube9k', 'VIP', 'MPII'],
        'yfcc/lists/val.txt',
    ),
    'vip-mpii_flow_384x384': (416, 384, 8, ['VIP', 'MPII'], 'VIP/lists/randval.txt'),
}


def load(name):
    return Config.fromfile(FOLDER / f'{name}.py')


def assert_papers_guidance(transform):
    """Section 4: K = 81 and a grid of 200 pixels, every point kept."""
    watershed, grid = transform.strategies
    assert (watershed, grid) == (
        dict(type='watershed', kernel_size=81),
        dict(type='grid', bg_ratio=2.5e-5),
    )
    assert watershed['kernel_size'] == PAPER_KERNEL_SIZE, 'the default of the functions'
    assert grid_stride(grid['bg_ratio']) == 200
    assert transform.max_points == -1


def test_no_config_is_left_untested():
    assert {path.stem for path in FOLDER.glob('*.py')} == {*EXPECTED, 'custom_pairs'}


@pytest.fixture
def reference_layout(pair_set, tmp_path, monkeypatch):
    """Every set of the reference below ./data, its lists naming files from the working directory."""
    for name in ('yfcc', 'youtube9k', 'VIP', 'MPII'):
        ann_file = pair_set(number=2, as_list=True, name=f'data/{name}', list_prefix=f'data/{name}/')
        lists = ann_file.parent / 'lists'
        lists.mkdir()
        for target in ('train.txt', 'val.txt', 'randval.txt'):
            (lists / target).write_bytes(ann_file.read_bytes())
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('name', EXPECTED)
def test_config_reads_the_references_layout(reference_layout, name):
    short_side, crop, batch_size, sets, val_list = EXPECTED[name]
    config = load(name)
    with DefaultScope.overwrite_default_scope('cmp_mm'):
        train, val = (
            DATASETS.build(loader.dataset) for loader in (config.train_dataloader, config.val_dataloader)
        )
        DATA_SAMPLERS.build(dict(config.train_dataloader.sampler, dataset=train, seed=0))
    assert [Path(source.ann_file).as_posix() for source in train.sources] == [
        f'data/{one}/lists/train.txt' for one in sets
    ]
    assert val.sources[0].ann_file == f'data/{val_list}'
    assert config.train_dataloader.batch_size == config.val_dataloader.batch_size == batch_size
    assert len(train) == 2 * len(sets)
    for dataset, crop_name in ((train, 'FlowRandomCrop'), (val, 'FlowCenterCrop')):
        sample = dataset[len(dataset) - 1]
        assert sample['data_samples'].ori_shape == (48, 64)
        assert tuple(sample['inputs']['image'].shape) == (3, crop, crop)
        assert len(sample['data_samples'].guidance_points) > 0
        assert dataset.ledger.num_bad == 0
        steps = {type(step).__name__: step for step in dataset.pipeline.transforms}
        assert steps['FlowResize'].short_side == short_side and steps[crop_name].size == (crop, crop)
        assert_papers_guidance(steps['SampleGuidance'])
    assert config.test_dataloader == config.val_dataloader
    assert config.val_evaluator == config.test_evaluator == dict(type='FlowMetric')


def test_custom_pairs_reads_a_prepared_folder(pair_set):
    ann_file = pair_set(number=2)
    (ann_file.parent / 'val.json').write_bytes(ann_file.read_bytes())
    config = load('custom_pairs')
    files = [config[f'{split}_dataloader'].dataset.ann_file for split in ('train', 'val', 'test')]
    assert files == ['train.json', 'val.json', 'val.json']
    for loader in (config.train_dataloader, config.val_dataloader):
        assert loader.dataset.data_root == 'data/pairs/'
        loader.dataset.data_root = str(ann_file.parent)
        with DefaultScope.overwrite_default_scope('cmp_mm'):
            dataset = DATASETS.build(loader.dataset)
        assert dataset[1]['data_samples'].gt_flow.shape == (2, 384, 384)
        (guidance,) = [step for step in dataset.pipeline.transforms if isinstance(step, SampleGuidance)]
        assert_papers_guidance(guidance)


def test_guidance_is_set_as_the_config_says(tmp_path):
    (tmp_path / 'experiment.py').write_text(
        f"_base_ = '{FOLDER / 'yfcc-youtube_flow_384x384.py'}'\n"
        "guidance = dict(type='SampleGuidance', strategies=[dict(type='grid', stride=80)], max_points=150)\n"
        'train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline\n'
        'train_pipeline[-2] = val_pipeline[-2] = guidance\n'
        'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))\n'
        'val_dataloader = test_dataloader = dict(dataset=dict(pipeline=val_pipeline))\n'
    )
    config = Config.fromfile(tmp_path / 'experiment.py')
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        pipeline = loader.dataset.pipeline
        assert pipeline[-2].max_points == 150 and pipeline[-2].strategies[0].stride == 80
        assert [step.type for step in pipeline][-1] == 'PackFlowInputs' and len(pipeline) == 6
    assert len(config.train_dataloader.dataset.sources) == 2
