"""What train.py says, and how it ends, where the machine or the files fail it."""

import json
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
TRAIN = ROOT / 'tools' / 'train.py'

# Runs train.py where files beyond this many bytes cannot be written.
SMALL_DISK = """
import resource, runpy, sys

resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def wait_until(condition, seconds=100):
    """Wait for something; returns what ``condition`` gives then."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, 'nothing happened'
        time.sleep(0.01)
    return found


def children_of(pid):
    """Processes that a process has started."""
    return [int(child) for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def error_line(output):
    """The only line that tells of an error."""
    lines = [line for line in output.splitlines() if line.startswith('train.py: error: ')]
    assert len(lines) == 1 and 'Traceback' not in output, output
    return lines[0]


def test_a_data_worker_that_dies_is_one_line(processes, tiny_config, tmp_path):
    out, work = tmp_path / 'output.txt', tmp_path / 'work'
    options = ['train_dataloader.num_workers=2', 'train_cfg.max_iters=100000']
    pid = processes.start(TRAIN, tiny_config, '--work-dir', work, '--cfg-options', *options, out=out)
    wait_until(lambda: (work / 'last_checkpoint').exists())
    os.kill(children_of(pid)[0], signal.SIGKILL)
    assert processes.wait(pid) == 1
    assert 'DataLoader worker' in error_line(out.read_text())


def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(processes, tiny_config, tmp_path):
    script, out, work = tmp_path / 'small_disk.py', tmp_path / 'output.txt', tmp_path / 'work'
    script.write_text(SMALL_DISK)
    code = processes.wait(processes.start(script, TRAIN, tiny_config, '--work-dir', work, out=out))
    line = error_line(out.read_text())
    assert code == 1 and 'iter_4.pth' in line and 'cannot write it (File too large)' in line
    assert not list(work.glob('*.pth')) and not list(work.glob('.*.tmp'))


def test_a_folder_that_cannot_be_made_is_one_line(fails, tiny_config, tmp_path):
    (tmp_path / 'file').write_text('')
    assert 'Not a directory' in fails('train.py', tiny_config, '--work-dir', tmp_path / 'file' / 'work')


def test_a_folder_that_vanishes_is_one_line_or_made_again(processes, tiny_config, tmp_path):
    out, work = tmp_path / 'output.txt', tmp_path / 'work'
    options = ['train_cfg.max_iters=100', 'default_hooks.checkpoint.interval=2']
    pid = processes.start(TRAIN, tiny_config, '--work-dir', work, '--cfg-options', *options, out=out)
    wait_until(lambda: (work / 'last_checkpoint').exists())
    shutil.rmtree(work, ignore_errors=True)
    code = processes.wait(pid)
    if code == 0:
        torch.load(work / 'iter_100.pth', weights_only=True)
    else:
        assert code == 1 and str(work) in error_line(out.read_text())


def test_files_that_change_after_they_were_listed(processes, tiny_config, pairs_root, tmp_path):
    """Cut short, replaced, removed while training reads them: others take their place, the log says so."""
    out, data, work = tmp_path / 'output.txt', tmp_path / 'data', tmp_path / 'work'
    shutil.copytree(pairs_root, data)
    options = [
        'train_dataloader.num_workers=2',
        'train_cfg.max_iters=40',
        'train_dataloader.dataset.max_bad_share=.3',
    ]
    arguments = ['--work-dir', work, '--data-root', data, '--cfg-options', *options]
    pid = processes.start(TRAIN, tiny_config, *arguments, out=out)
    wait_until(lambda: (work / 'last_checkpoint').exists())
    os.kill(pid, signal.SIGSTOP)
    flow = data / 'flow' / '001.flo'
    with open(flow, 'r+b') as file:
        file.truncate(flow.stat().st_size // 2)
    (data / 'flow' / '003.flo').write_bytes(b'something else')
    (data / 'frames' / '005.png').unlink()
    os.kill(pid, signal.SIGCONT)
    code, output = processes.wait(pid), out.read_text()
    assert code == 0, output
    for name in ('flow/001.flo', 'flow/003.flo', 'frames/005.png'):
        assert any('is replaced by another' in line and name in line for line in output.splitlines()), name


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture(params=['checkpoint', 'bare pickle'])
def planted(request, tmp_path):
    """A file of weights that would make a folder, and that folder."""
    marker, path = tmp_path / 'planted', tmp_path / 'planted.pth'
    content = dict(
        meta=dict(iter=1, epoch=0), state_dict=dict(w=torch.ones(1), v=Payload(marker)), optimizer={}
    )
    content['message_hub'] = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    if request.param == 'bare pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    return path, marker


def test_no_tool_runs_what_is_planted_in_a_checkpoint(processes, tiny_config, planted, tmp_path):
    path, marker = planted
    key = 'model.backbone.init_cfg'
    init = [f'{key}.type=Pretrained', f'{key}.checkpoint={path}']
    guarded = [f'{key}.type=cmp_mm.BackboneInit', f'{key}.source={path}']
    work = ['--work-dir', tmp_path / 'work']
    network = ['--config', tiny_config, '--checkpoint', path]
    commands = {
        'resume': ['train.py', tiny_config, *work, '--resume', path],
        'load_from': ['train.py', tiny_config, *work, '--cfg-options', f'load_from={path}'],
        'init_cfg': ['train.py', tiny_config, *work, '--cfg-options', *init],
        'BackboneInit': ['train.py', tiny_config, *work, '--cfg-options', *guarded],
        'test': ['test.py', tiny_config, path, *work],
        'extract': ['model_converters/extract_backbone.py', path, tmp_path / 'out.pth'],
        'publish': ['model_converters/publish_model.py', path, tmp_path / 'out.pth'],
        'convert': ['model_converters/official2cmp_mm.py', path, tmp_path / 'out.pth'],
        'web': ['demo/web_demo.py', *network],
    }
    # All at once: each waits for its imports most of the time.
    started = {
        name: processes.start(ROOT / 'tools' / tool, *args, out=tmp_path / f'{name}.txt')
        for name, (tool, *args) in commands.items()
    }
    for name, pid in started.items():
        code, output = processes.wait(pid), (tmp_path / f'{name}.txt').read_text()
        told = [line for line in output.splitlines() if 'error: ' in line]
        assert code == 1 and len(told) == 1 and 'Traceback' not in output, (name, output)
        assert 'planted.pth' in told[0] and ('refused' in told[0] or 'not a whole' in told[0]), told
    assert not marker.exists() and not (tmp_path / 'out.pth').exists()


def test_resuming_a_folder_passes_over_what_is_planted(tool, tiny_config, planted, tmp_path):
    """Somebody else's file in the work directory, named by last_checkpoint."""
    path, marker = planted
    work = tmp_path / 'work'
    work.mkdir()
    path.rename(work / 'iter_1.pth')
    (work / 'last_checkpoint').write_text(json.dumps(str(work / 'iter_1.pth'))[1:-1])
    options = ['--cfg-options', 'train_cfg.max_iters=1', '--no-validate']
    code, output = tool('train.py', tiny_config, '--work-dir', work, '--resume', *options)
    assert code == 0 and 'iter_1.pth is passed over' in output and not marker.exists(), output
