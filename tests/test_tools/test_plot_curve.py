import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'plot_curve.py'


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(TOOL))


def write_start(work_dir, time, rows):
    folder = work_dir / time / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(
        '\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    )


def validation(step, epe):
    return {'cmp/epe': epe, 'nearest/epe': 1.5, 'idw/epe': 1.2, 'zero/epe': 4.0, 'cmp/fl': 3.0, 'step': step}


@pytest.fixture
def work_dir(tmp_path):
    first = [{'loss': 9.0 - step / 10, 'lr': 0.1, 'step': step} for step in range(10, 60, 10)]
    # Killed after iteration 50, in the middle of a line; resumed from iteration 30.
    write_start(tmp_path / 'run', '20260101_000000', [*first, validation(30, 3.0), '{"loss": 3.9, "st'])
    second = [{'loss': 5.0 - step / 100, 'step': step} for step in range(40, 80, 10)]
    write_start(tmp_path / 'run', '20260101_010000', [*second, validation(60, 1.0), validation(70, 1.1)])
    return tmp_path / 'run'


def test_a_resumed_run_is_one_run(tool, work_dir):
    run = tool['read_run'](work_dir)
    steps, loss = run['loss']
    assert steps.tolist() == [10, 20, 30, 40, 50, 60, 70]
    np.testing.assert_allclose(loss, [8.0, 7.0, 6.0, 4.6, 4.5, 4.4, 4.3])
    assert run['cmp/epe'][0].tolist() == [30, 60, 70] and run['cmp/epe'][1].tolist() == [3.0, 1.0, 1.1]
    assert 'step' not in run or run['step'][0].tolist() == steps.tolist()


def test_baselines_best_first(tool, work_dir):
    run = tool['read_run'](work_dir)
    assert list(tool['baselines'](run, 'epe').items()) == [('idw', 1.2), ('nearest', 1.5), ('zero', 4.0)]


def test_smoothing_keeps_means(tool):
    values = np.array([3.0, 3, 3, 3, 9])
    np.testing.assert_allclose(tool['smooth'](values, 3), [3, 3, 3, 5, 6])
    np.testing.assert_array_equal(tool['smooth'](values, 1), values)
    assert tool['smooth'](values, 50).shape == (5,)


def test_picture_and_sentence(tool, work_dir, tmp_path, capsys):
    out = tmp_path / 'new' / 'curve.png'
    assert tool['main']([str(work_dir), '--out', str(out)]) == 0
    picture = cv2.imread(str(out))
    assert picture.shape[0] > 400 and picture.std() > 5
    text = capsys.readouterr().out
    assert 'run: epe 1.000 at iteration 60, last 1.100 at 70 | idw 1.200 | nearest 1.500 | zero 4.000' in text


def test_what_is_corrected_is_a_curve_and_no_baseline(tool, work_dir, tmp_path, capsys, monkeypatch):
    rows = [{**validation(80, 0.9), 'corrected/epe': 0.7}, {**validation(90, 1.3), 'corrected/epe': 0.5}]
    write_start(work_dir, '20260101_020000', rows)
    run = tool['read_run'](work_dir)
    assert list(tool['baselines'](run, 'epe')) == ['idw', 'nearest', 'zero']
    assert tool['main']([str(work_dir), '--out', str(tmp_path / 'curve.svg')]) == 0
    said = 'run: epe 0.900 at iteration 80, last 1.300 at 90 | corrected 0.700 | idw 1.200 | nearest'
    assert said in capsys.readouterr().out
    assert '<!-- run, corrected -->' in (tmp_path / 'curve.svg').read_text()


def test_several_runs(tool, work_dir, tmp_path, capsys):
    file = work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
    out = tmp_path / 'two.svg'
    assert tool['main']([str(work_dir), str(file), '--labels', 'all', 'part', '--out', str(out)]) == 0
    assert out.read_text().startswith('<?xml') and 'part: epe 3.000' in capsys.readouterr().out


def test_metrics_of_other_packages(tool, tmp_path, capsys):
    rows = [{'loss': 2.0, 'step': 10}, {'loss': 1.0, 'step': 20}, {'mIoU': 9.0, 'step': 20}]
    write_start(tmp_path / 'seg', 'now', [*rows, {'loss': 0.9, 'step': 30}, {'mIoU': 8.0, 'step': 30}])
    heights = []
    for metric in ('mIoU', 'coco/AP'):
        out = tmp_path / 'curve.png'
        assert tool['main']([str(tmp_path / 'seg'), '--out', str(out), '--metric', metric]) == 0
        heights.append(cv2.imread(str(out)).shape[0])
    assert heights[0] == pytest.approx(2 * heights[1], abs=2)  # no empty panel where there is no metric
    text = capsys.readouterr().out
    assert 'seg: mIoU 9.000 at iteration 20, last 8.000 at 30\n' in text
    assert 'seg: no coco/AP in its log\n' in text


def test_a_metric_by_the_key_of_the_log_is_the_same(tool, work_dir, tmp_path, capsys):
    said = []
    for metric in ('epe', 'cmp/epe', 'EPE'):
        assert tool['main']([str(work_dir), '--out', str(tmp_path / 'curve.png'), '--metric', metric]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and 'nearest' in said[0]
    assert 'no EPE in its log; there are cmp/epe' in said[2]


def test_bad_input_is_one_line(tool, tmp_path, capsys):
    out = str(tmp_path / 'c.png')
    assert tool['main']([str(tmp_path), '--out', out]) == 2
    assert 'no scalars.json in it; expected a work directory' in capsys.readouterr().err
    write_start(tmp_path / 'other', 'now', [{'lr': 1.0, 'step': 1}])
    assert tool['main']([str(tmp_path / 'other'), '--out', out]) == 2
    assert 'other: neither loss nor cmp/epe' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool['main']([str(tmp_path), '--out', 'curve.txt'])
    assert not Path(out).exists()
