import copy
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from cmp_mm.engine import (
    AtomicCheckpointHook,
    CheckpointError,
    DivergedError,
    FiniteLossHook,
    checkpoint_files,
    checkpoint_hook,
    find_resumable,
    finite_loss_hook,
)
from cmp_mm.engine.export import last_validation
from cmp_mm.structures import FlowDataSample


def run(config, **changes):
    config = copy.deepcopy(config)
    config.update(changes)
    # A new name for each run of this process: mmengine keeps message hubs and loggers by name.
    run.count = getattr(run, 'count', 0) + 1
    config.experiment_name = f'engine_test_{run.count}'
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def assert_same(first, second):
    """Bit for bit, through nested dicts and lists."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    else:
        assert first == second or (first != first and second != second)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it by accident."""


@pytest.mark.parametrize(('seed', 'ema'), [(7, False), (None, False), (7, True)])
def test_resume_is_exact_and_reads_nothing_again(toy_config, tmp_path, monkeypatch, reads, seed, ema):
    config = toy_config(randomness=dict(seed=seed))
    if ema:
        config.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    first = []

    def step(self, data, optim_wrapper, original=None):
        if kill_at is not None and len(first) == kill_at:
            raise Killed
        first.append(data['inputs'])
        return original(self, data, optim_wrapper)

    from mmengine.model import BaseModel

    original, kill_at = BaseModel.train_step, 10
    monkeypatch.setattr(
        BaseModel, 'train_step', lambda *args, **kwargs: step(*args, original=original, **kwargs)
    )
    with pytest.raises(Killed):
        run(config)
    killed_batches = list(first)
    kill_at = None
    first.clear()
    reads.clear()
    resumed = run(config, resume=True)
    resumed_batches = list(first)
    assert len(resumed_batches) == 12 - 8, 'the last checkpoint is that of iteration 8'
    # The validation set is read by plain indices, whose draw counts as 0 here.
    assert [draw for _, draw in reads if draw] == list(range(32, 48)), '8 batches of 4 were seen before'
    for one, other in zip(killed_batches[8:], resumed_batches, strict=False):
        assert_same(one, other)
    seed_of_run = resumed.seed
    first.clear()
    whole = run(config, work_dir=str(tmp_path / 'whole'), randomness=dict(seed=seed_of_run))
    assert_same(whole.model.state_dict(), resumed.model.state_dict())
    assert_same(whole.optim_wrapper.state_dict(), resumed.optim_wrapper.state_dict())
    ours, theirs = (torch.load(Path(r.work_dir) / 'iter_12.pth', weights_only=True) for r in (whole, resumed))
    assert ('ema_state_dict' in ours) == ema
    for part in ('state_dict', 'optimizer', 'param_schedulers', *(['ema_state_dict'] if ema else [])):
        assert_same(ours[part], theirs[part])
    losses = [part['message_hub']['log_scalars']['train/loss']['log_history'] for part in (ours, theirs)]
    assert_same(*losses)


def test_checkpoint_is_plain_data_and_says_which_model(toy_config):
    runner = run(toy_config(max_iters=5))
    checkpoint = torch.load(Path(runner.work_dir) / 'iter_5.pth', weights_only=True)
    assert checkpoint['meta']['model'] == dict(type='EngineToyModel')
    assert torch.equal(checkpoint['meta']['dataset_meta']['numbers'], torch.arange(2))
    history = checkpoint['message_hub']['log_scalars']['train/loss']['log_history']
    assert history.shape == (5,) and history.dtype == torch.float64


def test_histories_survive_a_resume(toy_config):
    config = toy_config(max_iters=8)
    run(config)
    config = toy_config(max_iters=12)
    runner = run(config, resume=True)
    losses, counts = runner.message_hub.get_scalar('train/loss').data
    assert len(losses) == 12 and counts.sum() == 12
    # At 5 and 8, but the checkpoint of 8 was written before its validation; then at 10 and 12.
    assert len(runner.message_hub.get_scalar('val/score').data[0]) == 3


def test_new_checkpoint_is_whole_before_the_old_one_goes(toy_config, monkeypatch, tmp_path):
    """Killed inside any write, the folder always holds a checkpoint that can be resumed."""
    import os

    work, seen = tmp_path / 'work', []
    replace = os.replace

    def watched(source, target):
        if str(target).endswith('.pth'):
            seen.append(find_resumable([work]))
        replace(source, target)
        if str(target).endswith('.pth'):
            assert find_resumable([work]) is not None

    monkeypatch.setattr(checkpoint_files.os, 'replace', watched)
    hook = dict(
        type='AtomicCheckpointHook',
        by_epoch=False,
        interval=2,
        max_keep_ckpts=1,
        save_best='score',
        rule='less',
    )
    run(toy_config(max_iters=8, default_hooks=dict(checkpoint=hook)))
    assert all(path is not None for path in seen[1:])
    names = sorted(path.name for path in work.glob('*.pth'))
    assert [name for name in names if name.startswith('iter')] == ['iter_8.pth']
    assert len([name for name in names if name.startswith('best')]) == 1


def test_best_is_replaced_only_after_the_new_best_is_there(toy_config, tmp_path, monkeypatch):
    hook = dict(type='AtomicCheckpointHook', by_epoch=False, interval=2, save_best='score', rule='greater')
    scores = iter([1.0, 3.0, 2.0])
    metric = toy_metric_class()
    monkeypatch.setattr(metric, 'compute_metrics', lambda self, results: dict(score=next(scores)))
    config = toy_config(max_iters=6, default_hooks=dict(checkpoint=hook))
    config.train_cfg.val_interval = 2
    runner = run(config)
    best = [path.name for path in (tmp_path / 'work').glob('best*')]
    assert best == ['best_score_iter_4.pth']
    assert runner.message_hub.get_info('best_score') == 3.0
    weights = torch.load(tmp_path / 'work' / best[0], weights_only=True)
    assert 'optimizer' not in weights


def toy_metric_class():
    from mmengine.registry import METRICS

    return METRICS.get('EngineToyMetric')


def test_killed_before_the_old_checkpoint_is_removed(toy_config, tmp_path, monkeypatch):
    """The resumed run removes it; one that resumes a file from elsewhere removes nothing."""
    config = toy_config(max_iters=12)
    config.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=1)

    def killed(self, path):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(AtomicCheckpointHook, '_remove', killed)
        run(config)
    work, other = tmp_path / 'work', tmp_path / 'other'
    assert sorted(path.name for path in work.glob('*.pth')) == ['iter_2.pth', 'iter_4.pth']
    other.mkdir()
    (other / 'iter_2.pth').write_bytes(b'of another run')
    elsewhere = dict(resume=True, load_from=str(work / 'iter_4.pth'), work_dir=str(other))
    run(config, train_cfg=dict(type='ResumableTrainLoop', max_iters=5, val_interval=99), **elsewhere)
    assert (other / 'iter_2.pth').exists()
    run(config, resume=True)
    assert [path.name for path in work.glob('*.pth')] == ['iter_12.pth']


def test_full_disk_keeps_the_last_checkpoint(toy_config, tmp_path, monkeypatch):
    config = toy_config()
    run(config, train_cfg=dict(type='ResumableTrainLoop', max_iters=4, val_interval=99))
    before = (tmp_path / 'work' / 'iter_4.pth').read_bytes()

    def full(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(checkpoint_files.os, 'fsync', full)
    with pytest.raises(OSError, match='cannot write it .No space left on device') as error:
        run(config, resume=True)
    assert 'iter_8.pth' in str(error.value)
    assert sorted(path.name for path in (tmp_path / 'work').glob('*.pth')) == ['iter_4.pth']
    assert (tmp_path / 'work' / 'iter_4.pth').read_bytes() == before
    assert not list((tmp_path / 'work').glob('.*.tmp'))


def test_stale_parts_are_removed(toy_config, tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / '.iter_4.pth.abc.tmp').write_bytes(b'half')
    (tmp_path / 'work' / 'other.tmp').write_bytes(b'not ours')
    run(toy_config(max_iters=1))
    assert not (tmp_path / 'work' / '.iter_4.pth.abc.tmp').exists()
    assert (tmp_path / 'work' / 'other.tmp').exists()


def test_nothing_to_resume_starts_afresh(toy_config):
    runner = run(toy_config(max_iters=2), resume=True)
    assert runner.iter == 2


def test_killed_in_the_last_validation(toy_config, monkeypatch):
    config = toy_config(max_iters=4)
    metric, calls = toy_metric_class(), []

    def killed(self, results):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(metric, 'compute_metrics', killed)
        run(config)
    monkeypatch.setattr(metric, 'compute_metrics', lambda self, results: calls.append(1) or dict(score=1.0))
    run(config, resume=True)
    assert calls == [1]


def test_diverged_loss_stops_before_it_is_saved(toy_config, tmp_path):
    config = toy_config(model=dict(type='EngineToyModel', poison_at=4))
    with pytest.raises(DivergedError, match='loss is nan at iteration 4; files of the batch'):
        run(config)
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_numbers_of_numpy_become_pythons():
    from cmp_mm.engine import to_plain

    plain = to_plain(
        dict(a=np.float32(0.5), b=(np.int8(3),), c=np.str_('x'), d=Path('p'), e=object(), f=[math.nan])
    )
    assert type(plain['a']) is float and type(plain['b'][0]) is int and type(plain['c']) is str
    assert plain['d'] == 'p' and 'e' not in plain and math.isnan(plain['f'][0])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(type='CosineAnnealingLR', by_epoch=False, T_max=24, end=12),
            'T_max .* is 12, of the config 24',
        ),
        (dict(type='CosineAnnealingLR', by_epoch=False, T_max=12, end=24), 'end .* is 12, of the config 24'),
        ([dict(type='ConstantLR', by_epoch=False)] * 2, 'it has 1 schedulers, the config 2'),
    ],
)
def test_another_schedule_is_not_resumed(toy_config, changes, message):
    run(toy_config(max_iters=8))
    with pytest.raises(CheckpointError, match=f'cannot be resumed: .*{message}; train with the same'):
        run(toy_config(param_scheduler=changes), resume=True)


@pytest.mark.parametrize(('first', 'then'), [(1, 0), (0, 1)])
def test_a_schedule_is_neither_dropped_nor_begun_on_the_way(toy_config, first, then):
    schedules = [None, dict(type='CosineAnnealingLR', by_epoch=False, T_max=12, end=12)]
    run(toy_config(max_iters=4, param_scheduler=schedules[first]))
    with pytest.raises(CheckpointError, match=f'it has {first} schedulers, the config {then}; train with'):
        run(toy_config(max_iters=8, param_scheduler=schedules[then]), resume=True)


def test_a_schedule_that_waits_for_a_plateau_is_resumed(toy_config, tmp_path):
    config = toy_config(
        max_iters=8, param_scheduler=dict(type='ReduceOnPlateauLR', monitor='score', patience=0)
    )
    run(config)
    config.train_cfg.max_iters = 12
    run(config, resume=True)
    assert (tmp_path / 'work' / 'iter_12.pth').exists()


def test_another_milestone_is_not_resumed(toy_config):
    def steps(*milestones):
        return toy_config(
            max_iters=8,
            param_scheduler=dict(type='MultiStepLR', by_epoch=False, milestones=list(milestones), end=20),
        )

    run(steps(4, 9))
    run(steps(4, 9), resume=True)
    with pytest.raises(CheckpointError, match='milestones'):
        run(steps(4, 10), resume=True)


@pytest.mark.parametrize(
    ('optimizer', 'message'),
    [
        (dict(lr=0.5), "The lr of the resumed checkpoint's optimizer stays, 0.05; that of the config, 0.5,"),
        (dict(weight_decay=0.1), 'The weight_decay of .* stays, 0; that of the config, 0.1, has no effect'),
        (dict(momentum=0.5), 'The momentum of .* stays, 0.9; that of the config, 0.5, has no effect'),
    ],
)
@pytest.mark.parametrize('scheduled', [True, False])
def test_other_settings_of_the_optimizer_are_told(toy_config, tmp_path, optimizer, message, scheduled):
    changes = {} if scheduled else dict(param_scheduler=None)
    config = toy_config(max_iters=4, **changes)
    run(config)
    run(config, resume=True)
    assert 'has no effect' not in told(tmp_path)
    config.optim_wrapper.optimizer.update(optimizer)
    config.train_cfg.max_iters = 8
    run(config, resume=True)
    assert len(re.findall(message, told(tmp_path))) == 1


def told(tmp_path):
    return ''.join(path.read_text() for path in (tmp_path / 'work').glob('*/*.log'))


@pytest.mark.parametrize(
    ('first', 'second', 'message'),
    [
        (
            dict(type='SGD', lr=0.1, momentum=0.9),
            dict(type='Adam', lr=0.1),
            'only its optimizer has momentum',
        ),
        (dict(type='Adam', lr=0.1), dict(type='RMSprop', lr=0.1), "only the config's optimizer has momentum"),
    ],
)
def test_another_optimizer_is_not_resumed(toy_config, first, second, message):
    run(toy_config(max_iters=4, optim_wrapper=dict(optimizer=first)))
    with pytest.raises(CheckpointError, match=f'{message}; train with the same optimizer'):
        run(toy_config(max_iters=8, optim_wrapper=dict(optimizer=second)), resume=True)


def goes_on_and_tells_of(config, tmp_path, **setting):
    """A run that is resumed says nothing, and once of each setting that is another one."""
    config.train_cfg.max_iters += 4
    run(config, resume=True)
    assert 'has no effect' not in told(tmp_path)
    config.optim_wrapper.optimizer.update(setting)
    run(config, resume=True)
    assert told(tmp_path).count('has no effect') == 1


def test_a_scheduled_momentum_is_resumed(toy_config, tmp_path):
    schedule = dict(type='CosineAnnealingMomentum', by_epoch=False, T_max=12, end=12)
    config = toy_config(max_iters=8, param_scheduler=[schedule])
    run(config)
    goes_on_and_tells_of(config, tmp_path, momentum=0.8)
    assert 'stays, 0.9; that of the config, 0.8,' in told(tmp_path)


def test_other_groups_of_parameters_are_not_resumed(toy_config):
    config = toy_config(max_iters=4)
    run(config)
    config.optim_wrapper.paramwise_cfg = dict(custom_keys=dict(bias=dict(lr_mult=2)))
    with pytest.raises(CheckpointError, match='its optimizer has 1 groups of parameters, the config [2-9]'):
        run(config, resume=True)


@pytest.mark.parametrize('scheduled', [True, False])
def test_the_same_groups_of_parameters_are_resumed(toy_config, tmp_path, scheduled):
    config = toy_config(max_iters=4, **({} if scheduled else dict(param_scheduler=None)))
    config.optim_wrapper.paramwise_cfg = dict(custom_keys=dict(bias=dict(lr_mult=2)))
    run(config)
    goes_on_and_tells_of(config, tmp_path, lr=0.5)


@pytest.mark.parametrize('scheduler', [dict(type='LinearLR', by_epoch=False, end=12), None])
def test_a_rate_scaled_to_another_batch_size_is_not_resumed(toy_config, scheduler):
    config = toy_config(max_iters=8, param_scheduler=scheduler)
    config.auto_scale_lr = dict(base_batch_size=2, enable=True)
    run(config)
    run(config, resume=True)
    config.train_dataloader.batch_size = 8
    with pytest.raises(CheckpointError, match=r'scaled to this batch size, 0\.2: it has 0\.1, which stays'):
        run(config, resume=True)
    run(config, resume=True, auto_scale_lr=None)


def test_a_rate_scaled_without_accumulated_batches_goes_on_with_a_warning(toy_config, tmp_path):
    config = toy_config(max_iters=8)
    run(config)
    config.optim_wrapper.accumulative_counts = 4
    config.auto_scale_lr = dict(base_batch_size=config.train_dataloader.batch_size / 4, enable=True)
    config.train_cfg.max_iters = 12
    run(config, resume=True)
    assert 'did not count the 4 batches of a step: it stays 0.05' in told(tmp_path)


def test_the_best_of_the_run_it_comes_from_stays(toy_config, tmp_path, monkeypatch):
    hook = dict(type='AtomicCheckpointHook', by_epoch=False, interval=2, save_best='score', rule='greater')
    scores = iter([1.0, 1.0, 2.0, 3.0])  # resumed at 4 it validates that again
    monkeypatch.setattr(toy_metric_class(), 'compute_metrics', lambda self, results: dict(score=next(scores)))
    config = toy_config(max_iters=4, default_hooks=dict(checkpoint=hook))
    config.train_cfg.val_interval = 4
    run(config)
    config.train_cfg.max_iters = 12
    other = tmp_path / 'other'
    run(config, resume=True, load_from=str(tmp_path / 'work' / 'iter_4.pth'), work_dir=str(other))
    assert [path.name for path in (tmp_path / 'work').glob('best*')] == ['best_score_iter_4.pth']
    assert [path.name for path in other.glob('best*')] == ['best_score_iter_12.pth']


def test_the_metrics_of_a_checkpoint_are_of_its_own_weights(toy_config, tmp_path, monkeypatch):
    hook = dict(type='AtomicCheckpointHook', by_epoch=False, interval=4, save_best='score', rule='less')
    scores = iter([1.0, 2.0])
    monkeypatch.setattr(toy_metric_class(), 'compute_metrics', lambda self, results: dict(score=next(scores)))
    config = toy_config(max_iters=8, default_hooks=dict(checkpoint=hook))
    config.train_cfg.val_interval = 4
    run(config)
    found = {
        path.name: last_validation(torch.load(path, weights_only=True))
        for path in (tmp_path / 'work').glob('*.pth')
    }
    best = {'score': 1.0}
    assert found == {'iter_4.pth': best, 'best_score_iter_4.pth': best, 'iter_8.pth': {}}


@pytest.mark.parametrize('guilty', [True, False])
def test_of_several_processes_those_are_named_whose_loss_it_is(toy_config, monkeypatch, guilty):
    runner = Runner.from_cfg(toy_config(experiment_name=f'finite_loss_of_several_{guilty}'))
    monkeypatch.setattr(Runner, 'distributed', True)
    monkeypatch.setattr(finite_loss_hook, 'all_reduce', lambda value: value.fill_(math.nan))
    others = [None, (math.nan, ['theirs.jpg'])]
    monkeypatch.setattr(finite_loss_hook, 'all_gather_object', lambda own: [own, *others])
    batch = dict(data_samples=[FlowDataSample(metainfo=dict(img_path='ours.jpg'))])
    outputs = dict(loss=torch.tensor(math.inf if guilty else 3.0))
    files = 'ours.jpg, theirs.jpg' if guilty else 'theirs.jpg'
    message = f'The loss is {"inf, nan" if guilty else "nan"} at iteration 1; files of the batch: {files}. A'
    with pytest.raises(DivergedError, match=message):
        FiniteLossHook().after_train_iter(runner, 0, batch, outputs)


def test_processes_are_given_one_set_of_buffers_after_averaged_ones_are_in_place(toy_config):
    hooks = [dict(type='BroadcastBuffersHook'), dict(type='EMAHook')]
    runner = Runner.from_cfg(toy_config(experiment_name='buffers_after_ema', custom_hooks=hooks))
    names = [type(hook).__name__ for hook in runner.hooks]
    assert names.index('EMAHook') < names.index('BroadcastBuffersHook')


def test_a_non_finite_loss_under_a_scaler_stops_where_it_reached_a_buffer(toy_config):
    runner = Runner.from_cfg(toy_config(experiment_name='finite_loss_under_a_scaler'))
    runner.optim_wrapper = SimpleNamespace(loss_scaler=object())
    hook, outputs = FiniteLossHook(patience=2), dict(loss=torch.tensor(math.nan))
    hook.after_train_iter(runner, 0, outputs=outputs)
    hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(1.0)))
    runner.model.body[1].running_var[3] = math.inf
    with pytest.raises(DivergedError, match='It is in body.1.running_var already'):
        hook.after_train_iter(runner, 0, outputs=outputs)
    runner.model.body[1].running_var.fill_(1)
    hook = FiniteLossHook(patience=2)
    for _ in range(2):
        hook.after_train_iter(runner, 0, outputs=outputs)
    with pytest.raises(DivergedError, match='The loss is nan'):
        hook.after_train_iter(runner, 0, outputs=outputs)


def test_only_the_main_process_names_checkpoints_and_removes_old_ones(toy_config, tmp_path, monkeypatch):
    """Another one does not wait for the write: the old file would go before the new one is there."""
    monkeypatch.setattr(checkpoint_hook, 'is_main_process', lambda: False)
    config = toy_config(max_iters=6)
    config.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=1)
    run(config)
    left = sorted(path.name for path in (tmp_path / 'work').glob('*.pth'))
    assert left == ['iter_2.pth', 'iter_4.pth', 'iter_6.pth']
    assert not (tmp_path / 'work' / 'last_checkpoint').exists()


def test_the_best_is_still_replaced_after_a_validation_that_was_worse(toy_config, tmp_path, monkeypatch):
    hook = dict(type='AtomicCheckpointHook', by_epoch=False, interval=2, save_best='score', rule='greater')
    scores = iter([3.0, 2.0, 4.0])
    monkeypatch.setattr(toy_metric_class(), 'compute_metrics', lambda self, results: dict(score=next(scores)))
    config = toy_config(max_iters=6, default_hooks=dict(checkpoint=hook))
    config.train_cfg.val_interval = 2
    run(config)
    assert [path.name for path in (tmp_path / 'work').glob('best*')] == ['best_score_iter_6.pth']


def test_a_buffer_spoilt_in_another_process_stops_this_one_too(toy_config, monkeypatch):
    runner = Runner.from_cfg(toy_config(experiment_name='spoilt_elsewhere'))
    runner.optim_wrapper = SimpleNamespace(loss_scaler=object())
    monkeypatch.setattr(Runner, 'distributed', True)

    def reduce(value):  # the loss is the same everywhere; one buffer is spoilt, not here
        if not value.is_floating_point():
            value.fill_(1)

    monkeypatch.setattr(finite_loss_hook, 'all_reduce', reduce)
    monkeypatch.setattr(finite_loss_hook, 'all_gather_object', lambda own: [own, None])
    with pytest.raises(DivergedError, match='It is in the statistics of another process already'):
        FiniteLossHook(patience=2).after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(math.nan)))


def test_checkpoints_kept_elsewhere_are_found_without_their_pointer(toy_config, tmp_path, reads):
    config = toy_config(max_iters=8, experiment_name=tmp_path.name)
    config.default_hooks.checkpoint.out_dir = str(tmp_path / 'disk')
    run(config)
    assert (tmp_path / 'disk' / 'work' / 'iter_8.pth').exists()
    (tmp_path / 'work' / 'last_checkpoint').unlink()
    reads.clear()
    config.train_cfg.max_iters = 12
    config.experiment_name += '_again'
    run(config, resume=True)
    assert min(draw for _, draw in reads if draw) == 32


def test_overflows_count_from_the_last_finite_loss(toy_config, tmp_path):
    runner = Runner.from_cfg(toy_config(experiment_name=tmp_path.name))
    runner.optim_wrapper, hook = SimpleNamespace(loss_scaler=object()), FiniteLossHook(patience=2)
    for loss in (math.nan, math.nan, 1.0, math.nan, math.nan):
        hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(loss)))
    with pytest.raises(DivergedError):
        hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(math.nan)))
