"""What is told of a config, its data and its folder before anything is built."""

import json
import logging

import pytest
from mmengine.config import Config

from cmp_mm.engine import launch, run_config


@pytest.mark.parametrize(
    ('loader', 'said'),
    [
        (dict(batch_size=0), 'train_dataloader.batch_size is 0; expected a whole number of at least 1'),
        (dict(batch_size='x'), "train_dataloader.batch_size is 'x'; expected a whole number of at least 1"),
        (dict(num_workers=-1), 'train_dataloader.num_workers is -1; expected a whole number of at least 0'),
    ],
)
def test_numbers_of_a_loader(loader, said):
    cfg = Config(dict(train_dataloader=loader))
    with pytest.raises(run_config.UsageError) as caught:
        run_config.require_numbers(cfg, ('train', 'val'))
    assert str(caught.value) == said
    run_config.require_numbers(cfg, ('test',))


@pytest.mark.parametrize('lr', ['abc', -1])
def test_numbers_of_the_optimizer(lr):
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(lr=lr))))
    with pytest.raises(run_config.UsageError, match=f'optim_wrapper.optimizer.lr is {lr!r}; expected'):
        run_config.require_numbers(cfg, ('train',))
    run_config.require_numbers(cfg, ('test',))


@pytest.mark.parametrize(
    ('files', 'last', 'length'),
    [
        (['iter_150.pth', 'best_cmp_epe_iter_100.pth'], None, '150 iterations'),
        (['iter_2.pth', 'iter_150.pth'], 'iter_2.pth', '2 iterations'),
        (['epoch_1.pth'], 'gone.pth', '1 epoch'),
        ([], 's3://bucket/run/iter_20.pth', '20 iterations'),
        (['backbone.pth'], 'iter_150.pth', None),
        ([], None, None),
    ],
)
@pytest.mark.parametrize('elsewhere', [False, True])
def test_a_run_is_not_begun_in_the_folder_of_another(tmp_path, files, last, length, elsewhere):
    work, out = tmp_path / 'work', tmp_path / 'disk'
    kept = out / 'work' if elsewhere else work
    for folder in (work, kept):
        folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (kept / name).touch()
    if last is not None:
        (work / 'last_checkpoint').write_text(last if '://' in last else str(kept / last))
    cfg = Config(dict(work_dir=str(work), default_hooks=dict(checkpoint=dict(out_dir=str(out)))))
    if not elsewhere:
        cfg.pop('default_hooks')
    if length is None:
        run_config.require_no_run(cfg)
        return
    with pytest.raises(run_config.UsageError) as caught:
        run_config.require_no_run(cfg)
    said = f'{work} holds a run of {length}; add --resume to go on with it, or name another --work-dir'
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ('split', 'hint'),
    [
        ('train', 'prepare more videos'),
        ('val', 'train with --no-validate, or .*val_dataloader.dataset.ann_file=train.json'),
        ('test', 'test_dataloader.dataset.ann_file=train.json'),
    ],
)
def test_an_annotation_without_samples_says_what_to_do(tmp_path, split, hint):
    path = tmp_path / 'a.json'
    dataset = dict(type='ImageFlowDataset', ann_file='a.json', data_root=str(tmp_path))
    cfg = Config({f'{split}_dataloader': dict(dataset=dataset)})
    path.write_text(json.dumps(dict(metainfo={}, data_list=[])))
    with pytest.raises(run_config.UsageError, match=f'{split} annotation {path} holds no samples.*{hint}'):
        run_config.require_data(cfg, (split,))
    for text in ('{"data_list": [{}]}', '{', '[]'):  # what is wrong with these is told later
        path.write_text(text)
        run_config.require_data(cfg, (split,))


WARM_UP = dict(type='LinearLR', by_epoch=False, begin=0, end=20)
COSINE = dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=800)


@pytest.mark.parametrize(
    ('schedule', 'last', 'said'),
    [
        ([WARM_UP, COSINE], 800, None),
        ([WARM_UP, COSINE], 150, 'param_scheduler.1.end=150 ends'),
        ([COSINE, dict(COSINE, type='CosineAnnealingMomentum')], 150, 'param_scheduler.0.end=150 ends'),
        ([dict(COSINE, T_max=780)], 150, 'param_scheduler.0.end=150 param_scheduler.0.T_max=130 ends'),
        ([WARM_UP, COSINE], 10, 'it begins at 20 only'),
        (COSINE, 150, 'param_scheduler.end=150 ends'),
        ([COSINE, dict(type='MultiStepLR', by_epoch=False, milestones=[500])], 150, None),
        ([dict(COSINE, by_epoch=True)], 150, None),
        ([WARM_UP, COSINE], None, None),
        (None, 150, None),
    ],
)
def test_a_schedule_longer_than_the_run_is_told_of(caplog, schedule, last, said):
    logger = logging.getLogger('schedule')
    cfg = Config(dict(train_cfg=dict(max_iters=last), param_scheduler=schedule))
    launch.warn_of_long_schedule(cfg, logger)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (said is not None)
    if said is not None:
        assert f'max_iters is {last}, but' in told[0] and 'ends at 800: ' in told[0] and said in told[0]
