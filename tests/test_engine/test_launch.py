"""What a program says in the end, in one line."""

import argparse
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from cmp_mm.engine import launch, run_config

QUICK = Path(__file__).parents[2] / 'configs/cmp/cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'
WORKER = 'DataLoader worker (pid 7) is killed by signal: Killed. '


@pytest.fixture
def tell_later():
    """What torch does as a worker dies: an error from a signal handler, a moment after the connection."""

    def tell(*_args):
        raise RuntimeError(WORKER)

    before = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize('error', [ConnectionResetError(104, 'reset'), EOFError(), FileNotFoundError('sock')])
def test_a_worker_that_dies_is_named_though_its_connection_breaks_first(tell_later, error):
    with (
        pytest.raises(SystemExit, match=r'^train\.py: error: DataLoader worker \(pid 7\).*num_workers=1$'),
        launch.one_line_errors('train.py'),
    ):
        raise error


def test_a_broken_connection_of_its_own_is_one_line():
    with (
        pytest.raises(SystemExit, match=r'^train\.py: error: .*refused$'),
        launch.one_line_errors('train.py'),
    ):
        raise ConnectionRefusedError(111, 'refused')


@pytest.mark.parametrize('error', [RuntimeError('shape'), EOFError('short')])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error), match=str(error)), launch.one_line_errors('train.py'):
        raise error


def show(error):
    sys.excepthook(type(error), error, None)


@pytest.mark.parametrize(
    ('error', 'told'),
    [(ConnectionResetError(104, 'reset'), False), (EOFError(), False), (KeyError('bug'), True)],
)
def test_a_forked_worker_that_loses_the_main_process_adds_no_traceback(capfd, error, told):
    before = sys.excepthook
    with launch.one_line_errors('train.py'):
        worker = multiprocessing.get_context('fork').Process(target=show, args=(error,))
        worker.start()
        worker.join()
        assert (type(error).__name__ in capfd.readouterr().err) == told
        show(error)  # in the main process every error shows
        assert type(error).__name__ in capfd.readouterr().err
    assert worker.exitcode == 0 and sys.excepthook is before


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'param_scheduler.3.end': 5}, 'do not fit config'),
        ({'model.backbone.depth.deeper': 5}, 'do not fit config'),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, message):
    with pytest.raises(run_config.UsageError, match=message):
        run_config.load_config(str(QUICK), options)


def test_an_option_without_a_value_is_an_error_of_usage(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=run_config.ConfigOptions)
    assert parser.parse_args(['--cfg-options', 'a.b=3', 'c=[1,2]']).cfg_options == {'a.b': 3, 'c': [1, 2]}
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', 'a.b=3', 'train_cfg.max_iters'])
    assert '--cfg-options train_cfg.max_iters: expected KEY=VALUE' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['b b.pth', 'x,y.pth', 'a (1), b.safetensors', '"q".pth', 'plain.pth'])
def test_the_name_of_a_file_of_weights_is_taken_as_it_is(name):
    """mmengine drops spaces, and a bb.pth beside 'b b.pth' would be loaded."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=run_config.ConfigOptions)
    options = parser.parse_args(['--cfg-options', f'a.source={name}', 'b=[1, 2]', 'c=["u.pth","v.pth"]'])
    assert parser.parse_args(['--cfg-options', f'a={name}', 'a=None']).cfg_options == {'a': None}
    assert options.cfg_options == {'a.source': name, 'b': [1, 2], 'c': ['u.pth', 'v.pth']}


@pytest.mark.parametrize(
    ('name', 'begun'),
    [
        ('work/a/iter_3.pth', True),
        ('disk/a/iter_3.pth', True),
        ('work/a/log', False),
        ('disk/b/x.pth', False),
    ],
)
def test_a_run_is_begun_once_it_has_saved(tmp_path, name, begun):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    hooks = dict(checkpoint=dict(out_dir=str(tmp_path / 'disk')))
    cfg = Config(dict(work_dir=str(tmp_path / 'work' / 'a'), default_hooks=hooks))
    assert run_config.is_begun(cfg) is begun
    cfg.pop('default_hooks')
    assert run_config.is_begun(cfg) is (begun and name.startswith('work'))


@pytest.mark.parametrize(
    ('loop', 'kind'),
    [
        (dict(type='IterBasedTrainLoop', max_iters=3), 'cmp_mm.ResumableTrainLoop'),
        (dict(type='mmengine.IterBasedTrainLoop', max_iters=3), 'cmp_mm.ResumableTrainLoop'),
        (dict(by_epoch=False, max_iters=3), 'cmp_mm.ResumableTrainLoop'),
        (dict(type='EpochBasedTrainLoop', max_epochs=3), 'EpochBasedTrainLoop'),
        (dict(by_epoch=True, max_epochs=3), None),
    ],
)
def test_a_resumed_run_validates_what_was_not(loop, kind):
    cfg = Config(dict(train_cfg=loop))
    run_config.validate_what_was_not(cfg)
    assert cfg.train_cfg.get('type') == kind
    assert ('by_epoch' in cfg.train_cfg) == (kind is None)


def test_a_data_root_is_for_the_splits_that_are_read():
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(type='ImageFlowDataset', sources=[dict(data_root='a')])),
            test_dataloader=dict(dataset=dict(type='ImageFlowDataset', data_root='a')),
        )
    )
    run_config.set_data_root(cfg, 'b', ('test',))
    assert cfg.test_dataloader.dataset.data_root == 'b'
    with pytest.raises(run_config.UsageError, match='the train set has sources'):
        run_config.set_data_root(cfg, 'b')


@pytest.mark.parametrize(
    ('kind', 'switch'),
    [
        ('mmseg.SegVisualizationHook', dict(draw=True, interval=1)),
        ('PoseVisualizationHook', dict(enable=True, out_dir=os.path.abspath('shown'))),
        ('DetVisualizationHook', dict(draw=True, test_out_dir=os.path.abspath('shown'))),
        ('FlowVisualizationHook', {}),
    ],
)
def test_pictures_are_asked_for_as_each_package_does(kind, switch):
    cfg = Config(dict(default_hooks=dict(visualization=dict(type=kind)), visualizer=dict(type='Any')))
    run_config.show_predictions(cfg, 'shown', None)
    assert cfg.default_hooks.visualization == dict(type=kind, **switch)
    assert cfg.visualizer == dict(type='Any', save_dir='shown')
    cfg.pop('visualizer')
    run_config.show_predictions(cfg, 'shown', None)
    assert cfg.visualizer == dict(type='FlowVisualizer', save_dir='shown')
    if kind == 'FlowVisualizationHook':
        run_config.show_predictions(cfg, None, 7)
        assert cfg.default_hooks.visualization.num_val == 7
        with pytest.raises(run_config.UsageError, match='--show-number is -1'):
            run_config.show_predictions(cfg, None, -1)
    else:
        with pytest.raises(run_config.UsageError, match='does not choose images'):
            run_config.show_predictions(cfg, None, 7)


def test_pictures_of_a_config_that_draws_none():
    with pytest.raises(run_config.UsageError, match='--show-dir: no hook'):
        run_config.show_predictions(Config(dict(default_hooks={})), 'shown', None)


@pytest.mark.parametrize('name', ['LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'])
@pytest.mark.parametrize(('rank', 'waits'), [('0', []), ('1', [10])])
def test_of_several_processes_one_tells_of_a_wrong_command(monkeypatch, name, rank, waits):
    waited = []
    monkeypatch.setattr(launch, 'time', SimpleNamespace(sleep=waited.append))
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    monkeypatch.setenv(name, rank)
    with pytest.raises(SystemExit, match='config x: none'), launch.one_line_errors('train.py'):
        raise run_config.UsageError('config x: none')
    assert waited == waits, 'the launcher ends those that wait'
    with pytest.raises(SystemExit, match='disk'), launch.one_line_errors('train.py'):
        raise OSError('disk')  # that may be one process's alone
    assert waited == waits


@pytest.fixture
def group(monkeypatch):
    """Stands for a group of two processes on CPUs, of which this is the first."""
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    for name, value in (('RANK', '0'), ('WORLD_SIZE', '2'), ('MASTER_ADDR', 'here'), ('MASTER_PORT', '1')):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('LOCAL_RANK', '0')
    for name, value in (('is_initialized', True), ('get_rank', 0), ('get_world_size', 2)):
        monkeypatch.setattr(launch.distributed, name, lambda value=value: value)
    monkeypatch.setattr(launch.distributed, 'init_process_group', lambda backend: None)


def test_a_process_that_loses_another_points_to_its_message(group, monkeypatch):
    error = '[enforce fail at pair.cc:534] . Connection closed by peer [127.0.0.1]:1234'
    with (
        pytest.raises(SystemExit, match=r'^train\.py: another process ended; see its message \(.*1234\)$'),
        launch.one_line_errors('train.py'),
    ):
        raise RuntimeError(error)
    with pytest.raises(RuntimeError, match='upload'), launch.one_line_errors('train.py'):
        raise RuntimeError('upload failed: Connection closed by peer')
    monkeypatch.setattr(launch.distributed, 'is_initialized', lambda: False)
    with pytest.raises(RuntimeError), launch.one_line_errors('train.py'):
        raise RuntimeError(error)


@pytest.mark.parametrize('hooks', [None, [dict(type='EMAHook')], [dict(type='BroadcastBuffersHook')]])
def test_processes_validate_what_is_saved_by_any_config(group, hooks):
    cfg = Config(dict(custom_hooks=hooks))
    launch.start_processes(cfg, 'pytorch')
    names = [hook.type.rpartition('.')[2] for hook in cfg.custom_hooks]
    assert names.count('BroadcastBuffersHook') == 1 and len(names) == len({*names, 'BroadcastBuffersHook'})
    alone = Config(dict(custom_hooks=hooks))
    launch.start_processes(alone, 'none')
    assert alone.custom_hooks == hooks


@pytest.mark.parametrize(
    ('sync', 'training', 'told'),
    [('whole', True, 1), ('layers', True, 1), ('layers', False, 0), ('none', True, 0)],
)
def test_on_cpus_batch_normalisation_is_each_processs_own(group, monkeypatch, sync, training, told):
    layer = dict(type='mmcv.SyncBN' if sync == 'layers' else 'BN', requires_grad=True)
    cfg = Config(dict(model=dict(type='Any', heads=[dict(norm_cfg=layer), dict(norm_cfg=dict(type='GN'))])))
    if sync == 'whole':
        cfg.sync_bn = 'torch'
    messages = []
    monkeypatch.setattr(launch, 'print_log', lambda message, *_: messages.append(message))
    launch.start_processes(cfg, 'pytorch', training=training)
    assert [head.norm_cfg.type for head in cfg.model.heads] == ['BN', 'GN']
    assert cfg.model.heads[0].norm_cfg.requires_grad and 'sync_bn' not in cfg
    assert len(messages) == told and all('not synchronised on CPUs' in message for message in messages)


def test_mixed_precision_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'mps')
    with pytest.raises(run_config.UsageError, match="--amp: mmengine has no mixed precision on Apple's GPUs"):
        launch.use_amp(Config(dict(optim_wrapper=dict(type='OptimWrapper'))))
    with pytest.raises(
        run_config.UsageError, match='optim_wrapper.type AmpOptimWrapper: .* use OptimWrapper'
    ):
        launch.require_accelerator_for_amp(Config(dict(optim_wrapper=dict(type='AmpOptimWrapper'))))


@pytest.mark.parametrize('launcher', ['mpi', 'slurm'])
def test_launchers_outside_their_environment(monkeypatch, launcher):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    for name in ('OMPI_COMM_WORLD_LOCAL_RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(run_config.UsageError, match=f'--launcher {launcher}: .* not set; start by'):
        launch.start_processes(Config(), launcher)


def test_mpi_gives_each_process_its_own_device(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    monkeypatch.setenv('LOCAL_RANK', '0')
    for name, value in (('LOCAL_RANK', '3'), ('RANK', '11'), ('SIZE', '16')):
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', value)
    monkeypatch.setenv('MASTER_ADDR', 'first')
    launch.start_processes(Config(), 'mpi')
    assert os.environ['LOCAL_RANK'] == '3'


@pytest.mark.parametrize(('counts', 'base'), [(1, 16), (4, 4)])
def test_the_scaled_rate_counts_accumulated_batches(counts, base):
    cfg = Config(dict(optim_wrapper=dict(accumulative_counts=counts), auto_scale_lr=dict(base_batch_size=16)))
    for _ in range(2):  # the second time with the config that the first run has left
        launch.scale_learning_rate(cfg)
        assert cfg.auto_scale_lr.base_batch_size == base and cfg.auto_scale_lr.enable


@pytest.mark.parametrize('saved', [True, False])
def test_what_mmengines_hook_saved_is_resumed_rather_than_begun_anew(tmp_path, saved):
    if saved:
        (tmp_path / 'last_checkpoint').write_text('iter_4.pth')
    runner = SimpleNamespace(hooks=[], work_dir=str(tmp_path), _resume=True, _load_from=None)
    launch.start_where_nothing_resumes(runner, 'weights.pth')
    assert (runner._resume, runner._load_from) == ((True, None) if saved else (False, 'weights.pth'))


def test_every_evaluator_is_held_against_the_networks_bins():
    codec = dict(type='QuantizedFlowCodec', num_bins=11, max_flow=8.0)
    other = dict(type='cmp_mm.FlowMetric', codec=dict(codec, max_flow=50.0))
    cfg = Config(
        dict(
            model=dict(codec=codec),
            val_evaluator=dict(type='FlowMetric', codec=codec),
            test_evaluator=[dict(type='Other'), other],
        )
    )
    with pytest.raises(run_config.UsageError, match='test_evaluator'):
        run_config.require_one_codec(cfg)


@pytest.mark.parametrize('there', [True, False])
def test_tensorboard_is_left_out_where_it_is_missing(monkeypatch, there):
    monkeypatch.setattr(launch, 'find_spec', lambda _: object() if there else None)
    both = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    cfg = Config(dict(visualizer=dict(vis_backends=both)))
    launch.drop_missing_backends(cfg)
    assert cfg.visualizer.vis_backends == (both if there else both[:1])


def test_names_with_spaces_are_taken_as_they_are(tmp_path, capsys):
    """mmengine drops the spaces, and the run would go to another folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=run_config.ConfigOptions)
    there = tmp_path / 'a, b'
    there.mkdir()
    given = {'work_dir': '/d/run 1', 'data_root': '(old) videos', 'c': str(there), 'load_from': 'a[1,b.ckpt'}
    options = parser.parse_args(['--cfg-options', *(f'{key}={value}' for key, value in given.items())])
    assert options.cfg_options == given
    others = ['a= 5', 'b=[1, 2]', 'c=1, 2', 'd=(True, x)', 'e=u,v', "f='/d/run 1'", "g='5'", 'h=None']
    parsed = dict(a=5, b=[1, 2], c=[1, 2], d=(True, 'x'), e=['u', 'v'], f='/d/run 1', g=5, h=None)
    assert parser.parse_args(['--cfg-options', *others]).cfg_options == parsed
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', "a='[1,2'"])
    assert capsys.readouterr().err.splitlines()[-1].endswith('Imbalanced brackets exist in [1,2')
