import shutil

import pytest
import torch
from mmengine.fileio import get_file_backend

from cmp_mm.engine import find_resumable, write_durably


def save(path, iteration, time='20240101_000000', **changes):
    checkpoint = dict(meta=dict(iter=iteration, time=time), state_dict={}, optimizer={}, message_hub={})
    checkpoint.update(changes)
    torch.save({key: value for key, value in checkpoint.items() if value is not None}, path)


def point(folder, name):
    (folder / 'last_checkpoint').write_text(str(name))


def test_pointer_is_followed_even_past_later_iterations(tmp_path):
    """A fresh run in an old folder: the old run's iter_9 is not the last checkpoint."""
    save(tmp_path / 'iter_9.pth', 9)
    save(tmp_path / 'iter_2.pth', 2)
    point(tmp_path, tmp_path / 'iter_2.pth')
    assert find_resumable([tmp_path]) == str(tmp_path / 'iter_2.pth')


@pytest.mark.parametrize('pointer', [None, '', 'iter_6.pth', '\0', b'\xff\xfe'])
def test_without_a_pointer_the_one_saved_last_is_taken(tmp_path, pointer):
    save(tmp_path / 'iter_10.pth', 10, '20240102_000000')
    save(tmp_path / 'iter_9.pth', 9, '20240102_000000')
    save(tmp_path / 'iter_99.pth', 99, '20230102_000000')
    if isinstance(pointer, bytes):
        (tmp_path / 'last_checkpoint').write_bytes(pointer)
    elif pointer is not None:
        point(tmp_path, pointer)
    assert find_resumable([tmp_path]) == str(tmp_path / 'iter_10.pth')


def test_checkpoints_kept_elsewhere_are_those_the_pointer_names(tmp_path):
    """Nothing here can look for them, and to begin anew would write over them."""
    save(tmp_path / 'iter_10.pth', 10)
    point(tmp_path, 's3://bucket/run/iter_20.pth')
    assert find_resumable([tmp_path, 's3://bucket/run']) == 's3://bucket/run/iter_20.pth'


def test_moved_folder(tmp_path):
    (tmp_path / 'old').mkdir()
    save(tmp_path / 'old' / 'iter_2.pth', 2)
    save(tmp_path / 'old' / 'iter_9.pth', 9)
    point(tmp_path / 'old', tmp_path / 'old' / 'iter_2.pth')
    shutil.move(tmp_path / 'old', tmp_path / 'new')
    assert find_resumable([tmp_path / 'new']) == str(tmp_path / 'new' / 'iter_2.pth')


def test_a_copied_folder_goes_on_from_its_own(tmp_path):
    """Its pointer still names the run it was copied from, which has gone another way since."""
    (tmp_path / 'old').mkdir()
    save(tmp_path / 'old' / 'iter_2.pth', 2)
    point(tmp_path / 'old', tmp_path / 'old' / 'iter_2.pth')
    shutil.copytree(tmp_path / 'old', tmp_path / 'copy')
    assert find_resumable([tmp_path / 'copy']) == str(tmp_path / 'copy' / 'iter_2.pth')
    # Checkpoints saved elsewhere are found by the pointer alone.
    (tmp_path / 'copy' / 'iter_2.pth').unlink()
    assert find_resumable([tmp_path / 'copy']) == str(tmp_path / 'old' / 'iter_2.pth')


@pytest.mark.parametrize('harm', ['cut', 'flip', 'empty', 'weights only'])
def test_what_is_not_whole_is_passed_over(tmp_path, harm):
    save(tmp_path / 'iter_2.pth', 2)
    broken = tmp_path / 'iter_4.pth'
    save(broken, 4, state_dict=dict(w=torch.ones(1000)), optimizer=None if harm == 'weights only' else {})
    data = bytearray(broken.read_bytes())
    if harm == 'cut':
        data = data[: len(data) // 2]
    elif harm == 'flip':
        # One bit of a weight: only the checksum knows.
        position = data.find(torch.ones(8).numpy().tobytes())
        data[position] ^= 1
    elif harm == 'empty':
        data = b''
    broken.write_bytes(data)
    point(tmp_path, broken)
    assert find_resumable([tmp_path]) == str(tmp_path / 'iter_2.pth')


def test_nothing_there(tmp_path):
    assert find_resumable([tmp_path]) is None
    assert find_resumable([tmp_path / 'missing']) is None


def test_write_whole_replaces_and_keeps_the_usual_rights(tmp_path):
    plain, whole = tmp_path / 'plain', tmp_path / 'folder' / 'whole'
    plain.write_bytes(b'')
    write_durably(whole, b'one')
    get_file_backend(backend_args=dict(backend='durable_local')).put(b'two', whole)
    assert whole.read_bytes() == b'two'
    assert whole.stat().st_mode == plain.stat().st_mode
    assert [path.name for path in whole.parent.iterdir()] == ['whole']


def test_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / 'target'
    write_durably(target, b'old')
    with pytest.raises(TypeError):
        write_durably(target, 'no bytes')
    assert target.read_bytes() == b'old' and [path.name for path in tmp_path.iterdir()] == ['target']
