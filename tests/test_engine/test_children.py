"""What a program starts ends with it, and two never work in one folder."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmp_mm.engine import child_process, children, ending_children

ROOT = Path(__file__).resolve().parents[2]
SLEEP = [sys.executable, '-c', 'import time; time.sleep(60)']
PARENT = """
import sys
from cmp_mm.engine import child_process, ending_children

with ending_children(), child_process({sleep!r}, lock={folder!r}) as child:
    print(child.pid, flush=True)
"""

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='signals and locks of POSIX')


def start(folder):
    """A program with a child that works in ``folder``, and the child's number."""
    text = PARENT.format(sleep=SLEEP, folder=str(folder))
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    parent = subprocess.Popen([sys.executable, '-c', text], stdout=subprocess.PIPE, text=True, env=env)
    return parent, int(parent.stdout.readline())


def wait_for_end(pid):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            # A zombie whose parent is gone has ended too.
            if Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
                return True
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_sigterm_ends_what_was_started(tmp_path):
    parent, child = start(tmp_path)
    parent.terminate()
    assert parent.wait(30) == 128 + signal.SIGTERM
    assert wait_for_end(child)
    with child_process([sys.executable, '-c', ''], lock=tmp_path) as process:
        pass
    assert process.returncode == 0


def test_the_child_of_a_killed_parent_keeps_its_folder(tmp_path):
    parent, child = start(tmp_path)
    try:
        with (
            pytest.raises(RuntimeError, match='another process works there'),
            child_process(SLEEP, lock=tmp_path),
        ):
            pass
        parent.kill()
        parent.wait(30)
        with (
            pytest.raises(RuntimeError, match='another process works there'),
            child_process(SLEEP, lock=tmp_path),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    assert wait_for_end(child)
    with child_process([sys.executable, '-c', 'raise SystemExit(3)'], lock=tmp_path) as process:
        pass
    assert process.returncode == 3


def test_a_file_system_without_locks_is_no_hindrance(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(children.fcntl, 'flock', refuse)
    with child_process([sys.executable, '-c', 'raise SystemExit(4)'], lock=tmp_path) as process:
        pass
    assert process.returncode == 4


def test_a_failure_of_the_block_ends_the_child(tmp_path):
    with pytest.raises(ValueError), child_process(SLEEP) as process:
        raise ValueError
    assert process.returncode == -signal.SIGTERM


def test_ctrl_c_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped, ending_children():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capsys.readouterr().err == 'interrupted; run the same command again to continue\n'


def test_the_handler_before_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with ending_children():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
