"""The packages' own loops train and validate our configs, a few iterations on made data."""

import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from cmp_mm.datasets.puppets.figure import KEYPOINT_NAMES
from cmp_mm.datasets.puppets.render_set import render_set
from cmp_mm.datasets.puppets.writer import ClipSettings
from cmp_mm.engine import run_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'downstream'


class Losses:
    """Collects what the runner logs as loss."""

    def __init__(self, runner: Runner) -> None:
        self.values = runner.message_hub.get_scalar('train/loss').data[0]

    @property
    def finite(self) -> bool:
        return all(math.isfinite(value) for value in self.values)


def quick(cfg: Config, work_dir: Path) -> Config:
    """Single process, no workers, no pictures; small enough for a test."""
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name
    cfg.env_cfg.cudnn_benchmark = False
    cfg.randomness = dict(seed=0)
    cfg.default_hooks.logger.interval = 1
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    return cfg


def managers() -> list[type]:
    """Classes whose instances are kept by name for the whole process; each subclass keeps its own."""
    found = [DefaultScope, MMLogger, MessageHub, Visualizer]
    for manager in found:
        found += manager.__subclasses__()
    return found


@pytest.fixture(autouse=True)
def no_traces():
    """A runner sets the default scope, a logger, a hub and a visualizer for the whole process."""
    before = {manager: manager._instance_dict.copy() for manager in managers()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
    # A package's visualizer, imported by the test, would write on into that test's folder.
    for manager in managers():
        manager._instance_dict.clear()
        manager._instance_dict.update(before.get(manager, {}))


@pytest.fixture
def camvid(tmp_path, need, write_pairs, three_stages_file):
    need('mmseg')
    for split in ('train', 'val'):
        write_pairs(tmp_path / 'data/images' / split, tmp_path / 'data/masks' / split, 4, labels=(0, 3))

    def config(name: str = 'cmp_fcn_r18-3stages-d8_1xb8-1k_camvid-160x160', iterations: int = 12) -> Config:
        cfg = Config.fromfile(CONFIGS / 'mmseg' / f'{name}.py')
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset.data_root = str(tmp_path / 'data')
        steps = cfg.train_dataloader.dataset.pipeline
        next(step for step in steps if step.type == 'RandomResize').scale = (64, 48)
        next(step for step in steps if step.type == 'RandomCrop').crop_size = (32, 32)
        cfg.model.data_preprocessor.size = (32, 32)
        cfg.train_dataloader.batch_size = 4
        cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
        cfg.default_hooks.checkpoint.interval = 6
        cfg.model.backbone.init_cfg.source = str(three_stages_file)
        return quick(cfg, tmp_path / f'work_{name}_{iterations}')

    return config


def test_segmentation_learns_and_is_measured(camvid):
    runner = Runner.from_cfg(camvid())
    runner.train()
    losses = Losses(runner)
    assert losses.finite and min(losses.values[-3:]) < 0.7 * losses.values[0]
    metrics = runner.val_loop.run()
    assert 0 <= metrics['mIoU'] <= 100


def test_segmentation_resumes(camvid):
    """mmengine's own checkpoints could not be read back by torch >= 2.6."""
    Runner.from_cfg(camvid(iterations=6)).train()
    cfg = camvid(iterations=12)
    cfg.work_dir = camvid(iterations=6).work_dir
    cfg.resume = True
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 12
    assert len(Losses(runner).values) == 12


def test_alexnet_segmentation_trains(camvid):
    cfg = camvid('cmp_fcn-32s_alexnet_1xb8-1k_camvid-160x160', iterations=2)
    cfg.model.backbone.init_cfg.source = 'random'
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.pop('checkpoint')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert Losses(runner).finite


def test_a_wrong_checkpoint_stops_the_training(camvid):
    cfg = camvid()
    cfg.model.backbone.depth = 34
    with pytest.raises(RuntimeError, match='another depth'):
        Runner.from_cfg(cfg).train()


def test_pose_learns_and_is_measured(tmp_path, need, write_coco, three_stages_file):
    need('mmpose')
    cfg = Config.fromfile(CONFIGS / 'mmpose' / 'cmp_td-hm_res18-3stages_1xb4-20e_coco-tiny-256x192.py')
    file = write_coco(tmp_path / 'data')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.update(data_root=str(tmp_path / 'data'), ann_file=file.name)
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(file)
    cfg.train_cfg.update(max_epochs=8, val_interval=8)
    cfg.param_scheduler = []
    cfg.model.backbone.init_cfg.source = str(three_stages_file)
    # A quarter of the size: the codec is in the pipelines and in the head.
    codec = dict(type='MSRAHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=2)
    cfg.model.head.decoder = codec
    for split in ('train', 'val', 'test'):
        for step in cfg[f'{split}_dataloader'].dataset.pipeline:
            if step.type == 'TopdownAffine':
                step.input_size = codec['input_size']
            if step.type == 'GenerateTarget':
                step.encoder = codec
    runner = Runner.from_cfg(quick(cfg, tmp_path / 'pose'))
    runner.train()
    losses = Losses(runner)
    assert losses.finite and min(losses.values[-3:]) < 0.7 * losses.values[0]
    assert 'coco/AP' in runner.val_loop.run()


def test_pose_of_puppets_trains_and_is_measured(tmp_path, need, three_stages_file):
    need('mmpose')
    root = tmp_path / 'puppets'
    render_set(root, ClipSettings(0, 2, 96, 128, 'flo'), clips=6, val_share=0.4)
    name = 'cmp_td-hm_res18-3stages_1xb8-1k_puppets-128x96.py'
    cfg = run_config.load_config(str(CONFIGS / 'mmpose' / name), {}, str(root))
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.model.backbone.init_cfg.source = str(three_stages_file)
    cfg.train_dataloader.batch_size = 2
    runner = Runner.from_cfg(quick(cfg, tmp_path / 'work'))
    runner.train()
    assert Losses(runner).finite
    figures = json.loads((root / 'keypoints_val.json').read_text())['annotations']
    assert len(runner.val_dataloader.dataset) == sum(one['num_keypoints'] > 0 for one in figures) > 0
    metrics = runner.val_loop.run()
    assert 0 <= metrics['PCK'] <= 1 and 'coco/AP' in metrics
    # What mmpose takes the points for: it mirrors and weighs them by their names.
    named = runner.train_loop.dataloader.dataset.metainfo['keypoint_id2name'].values()
    assert tuple(named) == KEYPOINT_NAMES


def test_mask_rcnn_trains_on_coco_format(tmp_path, need, write_coco, resnet18_file):
    """Through torchvision's ops where mmcv has none: boxes, masks and their gradients."""
    need('mmdet')
    need('torchvision')
    cfg = Config.fromfile(CONFIGS / 'mmdet' / 'cmp_mask-rcnn_r50_fpn_syncbn_1x_coco.py')
    file = write_coco(tmp_path / 'data')
    cfg.train_dataloader.dataset.update(
        data_root=str(tmp_path / 'data'),
        ann_file=file.name,
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=('person',)),
    )
    next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'Resize').scale = (96, 96)
    cfg.train_dataloader.batch_size = 2
    # ResNet-18 in place of ResNet-50, narrow heads: the same code, a tenth of the time.
    cfg.model.backbone.depth = 18
    cfg.model.backbone.init_cfg.source = str(resnet18_file)
    cfg.model.neck.update(in_channels=[64, 128, 256, 512])
    cfg.model.roi_head.bbox_head.update(fc_out_channels=32, num_classes=1)
    cfg.model.roi_head.mask_head.num_classes = 1
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
    cfg.train_cfg.update(max_epochs=2, val_interval=9)
    cfg = quick(cfg, tmp_path / 'det')
    for key in (
        'val_cfg',
        'val_dataloader',
        'val_evaluator',
        'test_cfg',
        'test_dataloader',
        'test_evaluator',
    ):
        cfg[key] = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert Losses(runner).finite
    for name in ('loss_bbox', 'loss_mask', 'loss_rpn_cls'):
        assert math.isfinite(runner.message_hub.get_scalar(f'train/{name}').current())


def test_a_test_draws_every_image_and_needs_no_training_data(camvid, tmp_path):
    """mmsegmentation's hook draws each 50th, and asks for the iteration of a training that is not there."""
    from mmseg.registry import MODELS

    cfg = camvid()
    cfg.model.backbone.init_cfg.source = 'random'
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'random.pth')
    shutil.rmtree(tmp_path / 'data/images/train')
    cfg.dump(tmp_path / 'config.py')
    command = [
        sys.executable,
        CONFIGS.parents[1] / 'tools/test.py',
        tmp_path / 'config.py',
        tmp_path / 'random.pth',
    ]
    command += [
        '--work-dir',
        tmp_path / 'work',
        '--show-dir',
        tmp_path / 'shown',
        '--out',
        tmp_path / 'out.json',
    ]
    command += ['--cfg-options', 'test_dataloader.num_workers=0']
    env = {**os.environ, 'PYTHONPATH': str(CONFIGS.parents[1])}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'train_dataloader = dict' in (tmp_path / 'work' / 'config.py').read_text(), (
        'the config stays whole'
    )
    assert 'mIoU' in json.loads((tmp_path / 'out.json').read_text())
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 4
