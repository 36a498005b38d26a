"""One reader of the log that mmengine writes, also of a run that was killed and resumed."""

import json

import pytest

from cmp_mm.engine import read_curve, read_scalars


def write_start(run, time, rows, torn=''):
    folder = run / time / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)) + '\n' + torn)


def train(*steps, loss=1.0):
    return [dict(loss=loss, lr=0.1, step=step) for step in steps]


def test_a_later_start_replaces_what_it_runs_again(tmp_path):
    write_start(
        tmp_path, '20260101_000000', [*train(10, 20, 30), dict(mIoU=5.0, step=20)], '{"loss": 3.9, "s'
    )
    write_start(tmp_path, '20260101_000001', [*train(21, 31, loss=2.0), dict(mIoU=6.0, step=40)])
    assert read_curve(tmp_path, 'loss') == [(10, 1.0), (20, 1.0), (21, 2.0), (31, 2.0)]
    assert read_curve(tmp_path, 'mIoU') == [(20, 5.0), (40, 6.0)]


def test_epochs_and_iterations_are_not_compared(tmp_path):
    """Loops by epoch log losses by iteration and metrics by epoch: epoch 2 is not before iteration 30."""
    first = [dict(row, epoch=1) for row in train(10, 20, 30)]
    later = [dict(row, epoch=2) for row in train(30, 40, loss=2.0)]
    write_start(tmp_path, '20260101_000000', [*first[:2], {'coco/AP': 0.1, 'step': 1}, *first[2:]])
    write_start(tmp_path, '20260101_000001', [*later, {'coco/AP': 0.2, 'step': 2}])
    assert read_curve(tmp_path, 'loss') == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]
    assert read_curve(tmp_path, 'coco/AP') == [(1, 0.1), (2, 0.2)]


def test_what_an_earlier_start_validated_later_is_out_of_date(tmp_path):
    """A start from the beginning that validates half as often."""
    write_start(
        tmp_path, '20260101_000000', [*train(100, 200), dict(epe=2.0, step=200), dict(epe=1.5, step=400)]
    )
    write_start(tmp_path, '20260101_000001', [*train(100, 200, loss=2.0), dict(epe=1.0, step=400)])
    assert read_curve(tmp_path, 'epe') == [(400, 1.0)]


def test_a_validation_drops_no_training(tmp_path):
    """A resumed run may begin with one, of the iteration that it goes on from."""
    write_start(tmp_path / 'a', '20260101_000000', train(650, 700, 750))
    write_start(tmp_path / 'a', '20260101_000001', [dict(epe=1.0, step=750), *train(800, 850, loss=2.0)])
    assert [step for step, _ in read_curve(tmp_path / 'a', 'loss')] == [650, 700, 750, 800, 850]
    write_start(tmp_path / 'b', '20260101_000000', [dict(row, epoch=1) for row in train(50, 100)])
    write_start(tmp_path / 'b', '20260101_000001', [dict(AP=1.0, step=21)])
    assert [step for step, _ in read_curve(tmp_path / 'b', 'loss')] == [50, 100]


def test_what_is_no_row_is_left_out(tmp_path):
    write_start(tmp_path, 'now', [[1], dict(loss=1.0), dict(loss=1.0, step='x'), dict(loss=2.0, step=3)])
    assert read_scalars(tmp_path / 'now' / 'vis_data' / 'scalars.json') == [dict(loss=2.0, step=3)]
    with pytest.raises(FileNotFoundError, match=r'no scalars\.json in it; expected a work directory'):
        read_scalars(tmp_path / 'now' / 'nowhere')
