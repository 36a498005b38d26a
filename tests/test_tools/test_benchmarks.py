"""The benchmarks' driver, and the training step on the CPU in small: that figures come, not which."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from cmp_mm.registry import DATA_SAMPLERS

BENCHMARKS = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture(scope='module')
def driver():
    return runpy.run_path(str(BENCHMARKS / 'run_all.py'))


@pytest.fixture(scope='module')
def small_step(tmp_path_factory):
    """What the driver's folder holds after the training step, done with few pairs and steps."""
    folder = tmp_path_factory.mktemp('bench')
    command = [
        sys.executable,
        str(BENCHMARKS / 'bench_training_step.py'),
        '--device',
        'cpu',
        '--size',
        'small',
    ]
    command += [
        '--pairs',
        '3',
        '--workers',
        '1',
        '--seconds',
        '0',
        '--least',
        '1',
        '--json',
        str(folder / 'step.json'),
    ]
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(BENCHMARKS.parents[1]))
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_training_step_measures_both_ways(small_step):
    figures = json.loads((small_step / 'step.json').read_text())
    plain, fast, device = figures['rows']
    assert [row['way'] for row in figures['rows']] == ['plain', 'fast', 'device'] and plain['ratio'] == 1.0
    for row in figures['rows']:
        assert row['images_per_s'] > 0 and row['images_per_s_from_memory'] > 0
        assert 0 <= row['waiting'] <= 1 and row['peak_bytes'] is None
    # Same weights and pairs; only which of two close points goes is drawn anew, and the loss's rounding.
    for row in (fast, device):
        assert row['first_loss'] == pytest.approx(plain['first_loss'], rel=0.05)
        for figure, ratio in (('images_per_s', 'ratio'), ('images_per_s_from_memory', 'ratio_from_memory')):
            assert row[ratio] == pytest.approx(row[figure] / plain[figure])


def test_table_holds_what_was_measured_and_says_what_was_not(driver, small_step):
    assert driver['main'](['--out', str(small_step), '--table']) == 0
    lines = (small_step / 'table.md').read_text().splitlines()
    rows = [line for line in lines if 'training step' in line]
    assert len(rows) == 2 and all('ResNet-18 96' in row and 'images/s' in row for row in rows)
    for benchmark in driver['BENCHMARKS']:
        assert (f'| {benchmark.name} | not run |' in '\n'.join(lines)) == (benchmark.name != 'step')


def test_every_script_is_run(driver):
    named = {Path(part).name for one in driver['BENCHMARKS'] for part in one.command if part.endswith('.py')}
    scripts = {path.name for path in BENCHMARKS.glob('bench_*.py')}
    assert named == scripts - {'bench_annotation.py'}  # which needs a trained network


def test_failures_and_time_limits_are_told_and_leave_no_old_figures(driver, tmp_path):
    def made(code, minutes=1.0):
        return driver['Benchmark'](
            'one', [sys.executable, '-c', code, '{json}'], minutes, lambda figures: iter(())
        )

    (tmp_path / 'one.json').write_text('{}')
    assert driver['run'](made('raise SystemExit(3)'), tmp_path, None).startswith(
        'failed with exit code 3, see'
    )
    assert not (tmp_path / 'one.json').exists()
    waits = made('import time; time.sleep(60)')
    assert driver['run'](waits, tmp_path, 0.005).startswith('stopped after 0 s, see')
    writes = made('import sys; open(sys.argv[1], "w").write("{}"); print("said")')
    assert driver['run'](writes, tmp_path, None) == 'done'
    assert (tmp_path / 'one.json').read_text() == '{}' and (tmp_path / 'one.log').read_text() == 'said\n'


def test_what_is_stopped_takes_along_what_it_started(driver, tmp_path):
    code = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
open('PID', 'w').write(str(child.pid))
time.sleep(60)
""".replace('PID', str(tmp_path / 'pid'))
    parent = driver['Benchmark']('one', [sys.executable, '-c', code], 1.0, lambda figures: iter(()))
    assert driver['run'](parent, tmp_path, 3 / 60).startswith('stopped after 3 s')
    stat = Path(f'/proc/{(tmp_path / "pid").read_text()}/stat')
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text().rsplit(')', 1)[1].split()[0] != 'Z':
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_unknown_name_is_refused(driver, tmp_path, capsys):
    with pytest.raises(SystemExit):
        driver['main'](['--out', str(tmp_path), '--only', 'everything'])
    assert 'everything' in capsys.readouterr().err


def test_the_plain_steps_and_the_plain_resume_are_plain(tmp_path, monkeypatch):
    """As the config of the case has settings of its own, and the training tool mends what it can."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    step = runpy.run_path(str(BENCHMARKS / 'bench_training_step.py'))
    config = Config.fromfile(step['CONFIGS'] / 'cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py')
    ways = {}
    for name in ('plain', 'fast'):
        ann_file = tmp_path / 'train.json'
        entry = dict(img_path='0.jpg', flow_path='0.flo')
        ann_file.write_text(json.dumps(dict(metainfo={}, data_list=[entry])))
        ways[name] = step['Way'](config, ann_file, 1, torch.device('cpu'), 0, step['OPTIONS'][name])
    formats = {name: way.model.data_preprocessor.memory_format for name, way in ways.items()}
    assert formats == {'plain': torch.contiguous_format, 'fast': torch.channels_last}

    resume = runpy.run_path(str(BENCHMARKS / 'bench_resume.py'))
    cfg = Config.fromfile(resume['CONFIG'])
    cfg.merge_from_dict(dict(option.split('=') for option in resume['PLAIN']))
    sampler = DATA_SAMPLERS.get(cfg.train_dataloader.sampler.type)
    assert not hasattr(sampler, 'set_start')


def test_an_aged_checkpoint_goes_on_with_the_data_of_its_iteration(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    resume = runpy.run_path(str(BENCHMARKS / 'bench_resume.py'))
    history = dict(log_history=torch.ones(2), count_history=torch.ones(2))
    hub = dict(runtime_info=dict(train_draws=16), log_scalars={'train/loss': history})
    (tmp_path / 'first').mkdir()
    torch.save(dict(meta=dict(iter=1), message_hub=hub), tmp_path / 'first/iter_1.pth')
    resume['age'](tmp_path / 'first/iter_1.pth', 40_000)
    aged = torch.load(tmp_path / 'start_40000.pth', weights_only=True)
    assert aged['meta']['iter'] == 40_000 and aged['message_hub']['runtime_info']['train_draws'] == 640_000
    assert len(aged['message_hub']['log_scalars']['train/loss']['log_history']) == 40_000
