import itertools

import pytest

from cmp_mm.datasets import ResumableSampler
from cmp_mm.registry import DATA_SAMPLERS

MODULE = 'cmp_mm.datasets.samplers.resumable_sampler'


def sampler_of_rank(monkeypatch, rank, world_size, size=23, **kwargs):
    monkeypatch.setattr(f'{MODULE}.get_dist_info', lambda: (rank, world_size))
    return ResumableSampler(range(size), **{'seed': 5, **kwargs})


def take(sampler, number):
    return list(itertools.islice(iter(sampler), number))


@pytest.mark.parametrize('world_size', [1, 3, 40])
@pytest.mark.parametrize('start', [0, 1, 9, 200])
def test_jump_is_the_same_as_skipping(monkeypatch, world_size, start):
    for rank in {0, world_size - 1}:
        sampler = sampler_of_rank(monkeypatch, rank, world_size)
        walked = take(sampler, start + 60)[start:]
        sampler.set_start(start)
        assert take(sampler, 60) == walked


@pytest.mark.parametrize('world_size,batch', [(2, 4), (3, 5), (4, 1)])
def test_ranks_share_the_batches_of_one_process(monkeypatch, world_size, batch):
    iterations = 30
    joint = take(sampler_of_rank(monkeypatch, 0, 1), iterations * world_size * batch)
    ranks = [
        take(sampler_of_rank(monkeypatch, rank, world_size), iterations * batch) for rank in range(world_size)
    ]
    for t in range(iterations):
        together = [pair for rank in ranks for pair in rank[t * batch : (t + 1) * batch]]
        assert sorted(together) == sorted(joint[t * world_size * batch : (t + 1) * world_size * batch])


def test_every_sample_comes_once_per_epoch_and_epochs_differ(monkeypatch):
    draws = take(sampler_of_rank(monkeypatch, 0, 1), 3 * 23)
    epochs = [[index for index, _ in draws[start : start + 23]] for start in (0, 23, 46)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(23))
    assert [draw for _, draw in draws] == list(range(3 * 23))


def test_order_depends_on_the_seed_alone(monkeypatch):
    first = take(sampler_of_rank(monkeypatch, 0, 1), 46)
    assert take(sampler_of_rank(monkeypatch, 0, 1), 46) == first
    assert take(sampler_of_rank(monkeypatch, 0, 1, seed=6), 46) != first
    # Frozen: a later version must go on in the order in which an earlier one began.
    assert [index for index, _ in first[:6]] == [0, 20, 1, 18, 3, 17]


def test_iterating_twice_starts_at_the_same_place(monkeypatch):
    sampler = sampler_of_rank(monkeypatch, 1, 2)
    sampler.set_start(4)
    assert take(sampler, 30) == take(sampler, 30)


def test_without_shuffling_the_order_is_the_datasets(monkeypatch):
    sampler = sampler_of_rank(monkeypatch, 1, 2, size=5, shuffle=False)
    assert [index for index, _ in take(sampler, 5)] == [1, 3, 0, 2, 4]
    assert len(sampler) == 3


def test_a_late_start_orders_one_epoch_and_no_earlier_one(monkeypatch):
    sampler = sampler_of_rank(monkeypatch, 3, 16, size=1_300_000)
    ordered, order = [], sampler._order
    monkeypatch.setattr(sampler, '_order', lambda epoch: ordered.append(epoch) or order(epoch))
    sampler.set_start(40_000 * 12)
    index, draw = next(iter(sampler))
    assert ordered == [40_000 * 12 * 16 // 1_300_000]
    assert draw == 40_000 * 12 * 16 + 3 and 0 <= index < 1_300_000


def test_is_built_by_mmengine_and_takes_its_seed():
    sampler = DATA_SAMPLERS.build(dict(type='ResumableSampler', dataset=range(4), seed=3))
    assert sampler.seed == 3
    assert isinstance(ResumableSampler(range(4)).seed, int)


def test_bad_arguments_are_one_sentence():
    with pytest.raises(ValueError, match='empty; expected at least one'):
        ResumableSampler([])
    with pytest.raises(ValueError, match='samples_per_rank is -1; expected 0 or more'):
        ResumableSampler([1], seed=0).set_start(-1)
