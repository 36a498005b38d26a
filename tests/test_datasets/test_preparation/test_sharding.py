import os
import subprocess
import sys
from pathlib import Path

import pytest

import cmp_mm
from cmp_mm.datasets.preparation import PairSettings, pool
from cmp_mm.datasets.preparation.errors import PrepareError
from cmp_mm.datasets.preparation.pool import BOOTSTRAP, visible_gpus
from cmp_mm.datasets.preparation.sharding import default_workers, read_shard, take_shard
from cmp_mm.datasets.preparation.store import Store

TORCHRUN = {'RANK': '2', 'WORLD_SIZE': '5'}
SLURM = {'SLURM_PROCID': '1', 'SLURM_NTASKS': '3'}


@pytest.mark.parametrize(
    ('text', 'environment', 'shard'),
    [
        (None, {}, (0, 1)),
        (None, TORCHRUN, (2, 5)),
        (None, SLURM, (1, 3)),
        (None, {**TORCHRUN, **SLURM}, (2, 5)),
        ('3/4', TORCHRUN, (3, 4)),
    ],
)
def test_the_share_comes_from_the_user_or_the_launcher(text, environment, shard):
    assert read_shard(text, environment) == shard


@pytest.mark.parametrize(
    ('text', 'environment'),
    [('4/4', {}), ('-1/4', {}), ('1', {}), ('a/b', {}), (None, {'RANK': 'x', 'WORLD_SIZE': '2'})],
)
def test_what_is_no_share_is_named(text, environment):
    with pytest.raises(PrepareError, match='is no shard; expected'):
        read_shard(text, environment)


def test_every_item_is_in_exactly_one_share():
    items = list(range(17))
    shares = [take_shard(items, rank, 5) for rank in range(5)]
    assert sorted(sum(shares, [])) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_cores_of_a_machine_are_shared_by_its_processes():
    alone = default_workers({})
    assert alone >= 1
    assert default_workers({'LOCAL_WORLD_SIZE': '2'}) == max(1, alone // 2)
    assert default_workers({'LOCAL_WORLD_SIZE': '10000'}) == 1


def test_gpus_are_those_that_cuda_would_offer(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    assert visible_gpus({}, str(tmp_path)) == ['0', '1']
    assert visible_gpus({'CUDA_VISIBLE_DEVICES': '3, 5'}, str(tmp_path)) == ['3', '5']
    assert visible_gpus({'CUDA_VISIBLE_DEVICES': ''}, str(tmp_path)) == []
    assert visible_gpus({}, str(tmp_path / 'gone')) == []


def test_workers_start_without_the_heavy_libraries():
    code = BOOTSTRAP.replace(
        'main()', "print(sorted({'torch', 'mmengine', 'mmcv', 'scipy'} & set(sys.modules)))"
    )
    environment = {**os.environ, 'PYTHONPATH': str(Path(cmp_mm.__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, '-c', code, str(os.getpid())],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == '[]'


def test_a_worker_whose_parent_is_gone_does_not_start():
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    found = subprocess.run([sys.executable, '-c', BOOTSTRAP, str(dead.pid)], capture_output=True, timeout=30)
    assert (found.returncode, found.stdout, found.stderr) == (0, b'', b'')


@pytest.mark.parametrize(
    ('code', 'told'),
    [('raise SystemExit(3)', 'exit code 3'), ('import os; os.kill(os.getpid(), 9)', 'SIGKILL')],
)
def test_workers_that_cannot_start_end_it(
    tmp_path, small, source_of, moving_frames, write_folder, monkeypatch, code, told
):
    started = []

    class Counted(pool._Process):
        def __init__(self, environment):
            started.append(1)
            assert len(started) < 30, 'for ever'
            super().__init__(environment)

    monkeypatch.setattr(pool, 'BOOTSTRAP', code)
    monkeypatch.setattr(pool, '_Process', Counted)
    store = Store(tmp_path / 'out', small)
    store.claim()
    source = source_of(write_folder(tmp_path / 'f', moving_frames(2)))
    with pytest.raises(PrepareError, match=rf'do not start \(.*{told}'):
        pool.WorkerPool(store, 1, 9.0).run([source], lambda *_: None)


def test_workers_are_spread_over_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
    monkeypatch.setenv('LOCAL_RANK', '1')

    def given(**options):
        settings = PairSettings(estimator='raft', estimator_options=options)
        workers = pool.WorkerPool(Store(tmp_path, settings), 3, 9.0)
        return [workers._environment(slot, 3)['CUDA_VISIBLE_DEVICES'] for slot in range(3)]

    assert given() == ['5', '3', '5'] and given(device='cuda:1') == ['3,5'] * 3
