"""Where a resumed training goes on in its data."""

import pytest
import torch
from mmengine.runner import Runner, ValLoop

from cmp_mm.engine import loops

SAMPLER = 'cmp_mm.datasets.samplers.resumable_sampler'


@pytest.fixture
def train(toy_config, monkeypatch, reads, tmp_path):
    """Trains as rank 0 of some processes; gives the numbers of the draws, and the run's folder."""

    def train(work, processes, batch, max_iters, **changes):
        monkeypatch.setattr(f'{SAMPLER}.get_dist_info', lambda: (0, processes))
        monkeypatch.setattr(loops, 'get_world_size', lambda: processes, raising=False)
        config = toy_config(max_iters, work_dir=str(tmp_path / work), param_scheduler=None, **changes)
        config.val_dataloader = config.val_cfg = config.val_evaluator = None
        config.train_dataloader.batch_size = batch
        train.runs = getattr(train, 'runs', 0) + 1
        config.experiment_name = f'{tmp_path.name}_{train.runs}'
        reads.clear()
        Runner.from_cfg(config).train()
        return [draw for _, draw in reads], tmp_path / work

    return train


@pytest.mark.parametrize(
    ('processes', 'batch', 'first'),
    [(2, 4, 64), (1, 4, 64), (4, 4, 64), (2, 3, 64), (1, 16, 64), (5, 3, 65)],
)
def test_other_processes_go_on_after_the_samples_that_were_seen(train, processes, batch, first):
    draws, work = train('work', 2, 4, 8)
    assert draws == list(range(0, 64, 2))
    draws, _ = train('work', processes, batch, 10, resume=True)
    assert draws == list(range(first, first + 2 * batch * processes, processes))
    saved = torch.load(work / 'iter_10.pth', weights_only=True)['message_hub']['runtime_info']
    assert saved['train_draws'] == first + 2 * batch * processes


def test_numbers_of_draws_add_up_over_several_changes(train):
    train('work', 2, 4, 4)
    train('work', 3, 2, 8, resume=True)  # 33 to 56: a draw was left out
    draws, _ = train('work', 1, 4, 9, resume=True)
    assert draws == [57, 58, 59, 60]


def test_a_checkpoint_without_the_number_counts_iterations(train):
    _, work = train('work', 1, 4, 4)
    saved = torch.load(work / 'iter_4.pth', weights_only=True)
    del saved['message_hub']['runtime_info']['train_draws']
    del saved['message_hub']['resumed_keys']['train_draws']
    torch.save(saved, work / 'iter_4.pth')
    draws, _ = train('work', 2, 4, 5, resume=True)
    assert draws == [32, 34, 36, 38]


def test_a_sampler_that_cannot_be_set_counts_nothing(train):
    loader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='InfiniteSampler', shuffle=False),
        dataset=dict(type='EngineToyDataset'),
    )
    _, work = train('work', 1, 4, 4, train_dataloader=loader)
    assert (
        'train_draws' not in torch.load(work / 'iter_4.pth', weights_only=True)['message_hub']['runtime_info']
    )


def test_a_sampler_that_cannot_be_set_is_advanced(train, reads):
    def loader():
        return dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=dict(type='EngineToyDataset'),
        )

    train('whole', 1, 4, 6, train_dataloader=loader())
    whole = list(reads)
    train('work', 1, 4, 4, train_dataloader=loader())
    train('work', 1, 4, 6, resume=True, train_dataloader=loader())
    assert reads == whole


@pytest.mark.parametrize('kind', ['ResumableTrainLoop', 'IterBasedTrainLoop'])
def test_it_validates_and_stops_when_mmengines_does(toy_config, monkeypatch, tmp_path, kind):
    seen = []

    def validate(self):
        seen.append(self.runner.iter)
        self.runner.train_loop.stop_training = self.runner.iter == 10

    monkeypatch.setattr(ValLoop, 'run', validate)
    loop = dict(type=kind, max_iters=12, val_begin=4, val_interval=3, dynamic_intervals=[(8, 2)])
    runner = Runner.from_cfg(toy_config(train_cfg=loop, experiment_name=tmp_path.name))
    runner.train()
    assert seen == [6, 8, 10] and runner.iter == 10
