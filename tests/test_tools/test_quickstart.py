"""What tools/quickstart.sh says before it installs anything."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools' / 'quickstart.sh'


def run(tmp_path, *videos, **environment):
    stop = tmp_path / 'python3'
    # Instead of a virtual environment.
    stop.write_text('#!/bin/sh\necho "venv $CMP_MM_VENV"\nexit 1\n')
    stop.chmod(0o755)
    env = {**os.environ, 'PYTHON': str(stop), **environment}
    return subprocess.run(
        ['bash', str(SCRIPT), *videos], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize('iterations', ['20', 'abc', '0', '-5', '1e3', '0600'])
def test_too_few_iterations_are_refused_at_once(tmp_path, iterations):
    done = run(tmp_path, CMP_MM_ITERS=iterations)
    assert done.returncode == 1 and done.stderr.splitlines() == [
        f'CMP_MM_ITERS is {iterations}; expected a whole number above 20, which the warm-up takes'
    ]


def test_a_missing_video_is_named(tmp_path):
    done = run(tmp_path, 'nothing.mp4')
    assert done.returncode == 1 and done.stderr == 'nothing.mp4: there is no such file or folder\n'


def test_a_missing_config_is_named(tmp_path):
    done = run(tmp_path, CMP_MM_CONFIG='configs/cmp/absent.py')
    assert done.returncode == 1
    assert done.stderr == 'CMP_MM_CONFIG is configs/cmp/absent.py: there is no such file\n'


# Stands for Python: 'trains' what it is asked to, so that the script alone is looked at.
PYTHON = r"""#!/bin/bash
case "$1" in
tools/dataset_converters/video2pairs.py)
    for last; do out_of=$next; next=$last; [ "$out_of" != --out ] || out=$last; done
    mkdir -p "$out"
    printf '{"data_list": [%s]}' "$(ls "$2" | sed 's/.*/"&"/' | paste -sd,)" > "$out/train.json"
    cp "$out/train.json" "$out/val.json"
    [ "$(ls "$2" | wc -l)" -gt 1 ] || echo '{"data_list": []}' > "$out/val.json" ;;
tools/dataset_converters/render_puppets.py)
    mkdir -p "$3" && echo '{"data_list": [1]}' | tee "$3/train.json" > "$3/val.json" ;;
tools/train.py)
    iterations=$(sed 's/.*max_iters=\([0-9]*\).*/\1/' <<< "$*")
    mkdir -p "$4" && echo train >> "$4/iter_$iterations.pth" && echo "$*" > "$4/args" ;;
tools/test.py) echo '{"cmp/epe": 0.762, "nearest/epe": 0.641, "idw/epe": 0.786, "zero/epe": 1.84,
    "corrected/epe": 0.55, "corrected/fl": 3.6, "cmp/fl": 3.98,
    "nearest/fl": 5.28, "idw/fl": 5.31, "zero/fl": 21.68, "guidance_points": 20.62}' > "$9" ;;
tools/model_converters/*) cp "$2" "$3" ;;
*) exec real "$@" ;;
esac
"""


@pytest.fixture
def start(tmp_path, venv_script):
    """Runs the script to its end in a repository of its own, on the sources named."""
    repo, programs = tmp_path / 'repo', tmp_path / 'bin'
    for folder in (repo / 'tools', programs):
        folder.mkdir(parents=True)
    shutil.copy(SCRIPT, repo / 'tools')
    shutil.copytree(ROOT / 'configs', repo / 'configs')
    (repo / 'tools' / 'venv.sh').write_text(venv_script)
    (programs / 'python').write_text(PYTHON.replace('real', sys.executable))
    (programs / 'python').chmod(0o755)
    env = {**os.environ, 'PATH': f'{programs}:{os.environ["PATH"]}', 'PYTHONPATH': str(ROOT)}

    def start(*sources, **environment):
        command = ['bash', str(repo / 'tools' / 'quickstart.sh'), *map(str, sources)]
        done = subprocess.run(
            command, env={**env, **environment}, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, sorted(repo.rglob('iter_*.pth'))

    return start


@pytest.mark.parametrize(
    'of_videos, environment, config, iterations',
    [
        (True, {}, 'k15or41-1xb16-3k', 3000),  # the recipe whose backbone gains
        (False, {}, '1xb16-800', 600),  # minutes, to see that all works
        (True, {'CMP_MM_ITERS': '50'}, 'k15or41-1xb16-3k', 50),
        (True, {'CMP_MM_CONFIG': '1xb16-800'}, '1xb16-800', 800),
        (False, {'CMP_MM_CONFIG': '1xb16-3k'}, '1xb16-3k', 3000),
    ],
)
def test_what_is_trained(tmp_path, start, of_videos, environment, config, iterations):
    name = 'cmp_resnet18-plain_quick-{}_pairs-96x96.py'
    if 'CMP_MM_CONFIG' in environment:
        environment = {'CMP_MM_CONFIG': 'configs/cmp/' + name.format(environment['CMP_MM_CONFIG'])}
    videos = [tmp_path / 'videos'] if of_videos else []
    for folder in videos:
        folder.mkdir()
        for video in ('one.mp4', 'two.mp4'):
            (folder / video).touch()
    output, (checkpoint,) = start(*videos, **environment)
    assert f'Training, {iterations} iterations' in output
    asked = checkpoint.with_name('args').read_text().split()
    assert Path(asked[1]).name == name.format(config)
    assert {f'train_cfg.max_iters={iterations}', f'param_scheduler.1.end={iterations}'} <= set(asked)
    every = {3000: 750, 800: 200, 600: 150, 50: 13}[iterations]  # what is killed has lost a quarter at most
    for what in (
        'train_cfg.val_interval',
        *(f'default_hooks.{n}.interval' for n in ('checkpoint', 'visualization')),
    ):
        assert f'{what}={every}' in asked
    assert checkpoint.name == f'iter_{iterations}.pth'
    assert ('quickstart-puppets' in str(checkpoint)) is not of_videos
    # What comes next: the other recipe, or one's own videos.
    assert ('many arrows for every image' in output) is (config == 'k15or41-1xb16-3k')
    assert ('your own videos' in output) is not of_videos


def test_the_figures_are_those_of_the_validation(start):
    lines = start(CMP_MM_ITERS='21')[0].splitlines()
    first = lines.index('On held-out clips, 21 arrows an image (smaller is better):')
    assert [line.split(maxsplit=2) for line in lines[first + 2 : first + 7]] == [
        ['0.76', '4.0', 'the network'],
        ['0.55', '3.6', 'the network, with what it misses at the arrows added (--correction fade)'],
        ['0.64', '5.3', 'the nearest arrow'],
        ['0.79', '5.3', 'arrows weighted by distance'],
        ['1.84', '21.7', 'no motion at all'],
    ]


def test_other_videos_are_another_run(tmp_path, start):
    """The backbone of the videos before must not pass for that of these."""
    videos = tmp_path / 'videos'
    videos.mkdir()
    start = partial(start, videos, CMP_MM_ITERS='21')
    (videos / 'one.mp4').touch()
    output, first = start()
    assert len(first) == 1 and 'a run of its own' not in output
    asked = first[0].with_name('args').read_text().split()
    assert {'--resume', '--data-root', 'train_cfg.max_iters=21', 'param_scheduler.1.end=21'} <= set(asked)
    assert 'val_dataloader.dataset.ann_file=train.json' in asked  # of one video
    output, again = start()
    assert again == first and 'Training is done' in output
    (videos / 'two.mp4').touch()
    for expected in ('Training, 21 iterations', 'Training is done'):
        output, both = start()
        assert len(both) == 2 and 'a run of its own' in output and expected in output
    (other,) = set(both) - set(first)
    assert 'ann_file=train.json' not in other.with_name('args').read_text()
    (videos / 'two.mp4').unlink()
    output, still = start()
    assert still == both and 'a run of its own' not in output and 'Training is done' in output


def test_folders_are_relative_to_the_caller(tmp_path):
    done = run(tmp_path, CMP_MM_VENV='env', CMP_MM_ITERS='21')
    assert done.returncode == 1 and f'is venv {tmp_path}/env' in done.stderr, done.stderr
