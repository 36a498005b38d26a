"""What tools/quickstart.sh says before it installs anything."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'tools' / 'quickstart.sh'


def run(tmp_path, *videos, **environment):
    stop = tmp_path / 'python3'
    # Instead of a virtual environment.
    stop.write_text('#!/bin/sh\necho "venv $CMP_MM_VENV"\nexit 1\n')
    stop.chmod(0o755)
    env = {**os.environ, 'PYTHON': str(stop), **environment}
    return subprocess.run(
        ['bash', str(SCRIPT), *videos], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize('iterations', ['20', 'abc', '0', '-5', '1e3'])
def test_too_few_iterations_are_refused_at_once(tmp_path, iterations):
    done = run(tmp_path, CMP_MM_ITERS=iterations)
    assert done.returncode == 1 and done.stderr.splitlines() == [
        f'CMP_MM_ITERS is {iterations}; expected a whole number above 20, which the warm-up takes'
    ]


def test_a_missing_video_is_named(tmp_path):
    done = run(tmp_path, 'nothing.mp4')
    assert done.returncode == 1 and done.stderr == 'nothing.mp4: there is no such file or folder\n'


def test_folders_are_relative_to_the_caller(tmp_path):
    done = run(tmp_path, CMP_MM_VENV='env', CMP_MM_ITERS='21')
    assert done.returncode == 1 and f'is venv {tmp_path}/env' in done.stderr, done.stderr
