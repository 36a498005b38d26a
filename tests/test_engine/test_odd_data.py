"""Training goes on, with a finite loss, whatever is in the pairs; and says which ones where it does not."""

import copy
import json
import math

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from cmp_mm.engine import DivergedError

STRATEGIES = [dict(type='watershed', kernel_size=9)]
CAP = 3  # guidance points; some pairs have more candidates, some none


@pytest.fixture
def odd_pairs(tmp_path):
    """Pairs of flow and image of which none is like a real one; returns their annotation."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), (48, 40))
    squares = np.kron(rng.choice((-6, 0, 6), (5, 6, 2)), np.ones((8, 8, 1))).astype(np.float32)
    holes = squares.copy()
    holes[:20], holes[30:, :9] = np.nan, np.inf
    pairs = {
        'nan': (picture, np.full_like(squares, np.nan)),
        'infinite': (picture, np.full_like(squares, np.inf)),
        'holes': (picture, holes),
        'enormous': (picture, np.full_like(squares, 1e8)),
        'static': (picture, np.zeros_like(squares)),  # no candidate
        'uniform': (picture, np.full_like(squares, 2)),  # no candidate
        'squares': (picture, squares),  # more candidates than the cap
        'constant image': (np.full_like(picture, 255), squares),
        'black image': (np.zeros_like(picture), squares),
        'one pixel': (picture[:1, :1], squares[:1, :1]),
        'one row': (picture[:1], squares[:1]),
        'one column': (picture[:, :1], np.full_like(squares[:, :1], np.nan)),
    }
    entries = []
    for name, (image, flow) in pairs.items():
        cv2.imwrite(str(tmp_path / f'{name}.png'), image)
        # As another tool might: ours would mark what is not finite.
        header = np.array([flow.shape[1], flow.shape[0]], '<i4').tobytes()
        (tmp_path / f'{name}.flo').write_bytes(b'PIEH' + header + flow.astype('<f4').tobytes())
        entries.append(dict(img_path=f'{name}.png', flow_path=f'{name}.flo'))
    (tmp_path / 'train.json').write_text(json.dumps(dict(metainfo={}, data_list=entries)))
    return tmp_path / 'train.json', list(pairs)


@pytest.fixture
def config(odd_pairs, tmp_path):
    """A config that trains a small CMP on each of them once, guidance chosen where ``batched`` says."""

    def make(batched, impl, **changes):
        guidance = dict(strategies=STRATEGIES, max_points=CAP)
        sample = [] if batched else [dict(type='SampleGuidance', **guidance)]
        pipeline = [
            dict(type='LoadImage'),
            dict(type='LoadFlow'),
            dict(type='FlowRandomCrop', size=(32, 32)),
            *sample,
            dict(type='PackFlowInputs'),
        ]
        annotation, names = odd_pairs
        config = dict(
            default_scope='cmp_mm',
            experiment_name=f'odd_{tmp_path.name}',
            work_dir=str(tmp_path / 'work'),
            model=dict(
                type='CMP',
                data_preprocessor=dict(type='FlowDataPreprocessor', guidance=guidance if batched else None),
                backbone=dict(type='ResNet', depth=18, num_stages=1, out_indices=(0,)),
                neck=dict(type='ConvNeck', in_channels=64, out_channels=8),
                guidance_encoder=dict(type='GuidanceEncoder', stride=4),
                decoder=dict(type='PlainDecoder', in_channels=24, combo=(1, 2), out_channels=22),
                codec=dict(type='QuantizedFlowCodec', num_bins=11, max_flow=8.0),
                loss=dict(type='QuantizedFlowLoss', impl=impl),
            ),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='ResumableSampler', shuffle=False),
                dataset=dict(
                    type='ImageFlowDataset', ann_file=str(annotation), pipeline=pipeline, max_bad_share=0
                ),
            ),
            train_cfg=dict(type='ResumableTrainLoop', max_iters=len(names) // 2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False)),
            custom_hooks=[dict(type='IterationSeedHook'), dict(type='FiniteLossHook')],
            log_processor=dict(by_epoch=False, window_size=1),
            randomness=dict(seed=7),
            log_level='WARNING',
        )
        config.update(copy.deepcopy(changes))
        return Config(config)

    return make


@pytest.mark.parametrize('impl', ['blocked', 'reference'])
@pytest.mark.parametrize('batched', [False, True])
def test_training_goes_on_with_a_finite_loss(config, odd_pairs, batched, impl):
    runner = Runner.from_cfg(config(batched, impl))
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    points = runner.message_hub.get_scalar('train/guidance_points').data[0]
    assert len(losses) == len(odd_pairs[1]) // 2 and all(math.isfinite(loss) for loss in losses)
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    # Pairs come in order, two by two: those without candidates have no point, the squares as many as may be.
    assert points[0] == 0 and points[2] == 0 and 0 < points[3] <= CAP and max(points) <= CAP
    # Where nothing is known nothing is learnt, and nothing breaks.
    assert losses[0] == 0 and losses[3] > 0


def test_a_diverged_loss_names_the_files_of_its_batch(config, odd_pairs, tmp_path):
    wild = dict(optimizer=dict(type='SGD', lr=1e30))
    with pytest.raises(DivergedError, match='The loss is (nan|inf) at iteration') as error:
        Runner.from_cfg(config(False, 'blocked', optim_wrapper=wild)).train()
    names = odd_pairs[1]
    iteration = int(str(error.value).split('at iteration ')[1].split(';')[0])
    for name in names[2 * (iteration - 1) % len(names) :][:2]:
        assert str(tmp_path / f'{name}.png') in str(error.value)
