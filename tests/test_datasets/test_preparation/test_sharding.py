import os
import subprocess
import sys
from pathlib import Path

import pytest

import cmp_mm
from cmp_mm.datasets.preparation.errors import PrepareError
from cmp_mm.datasets.preparation.pool import BOOTSTRAP, visible_gpus
from cmp_mm.datasets.preparation.sharding import default_workers, read_shard, take_shard

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
