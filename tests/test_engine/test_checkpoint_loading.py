import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader

from cmp_mm.engine import (
    CheckpointError,
    checkpoint_loading,
    load_checkpoint_file,
    stand_ins,
    state_dict_of,
)
from cmp_mm.engine.checkpoint_loading import check_some_weights_fit


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


class Reach:
    """Fetches an attribute when unpickled, as mmengine's histories do for their statistics."""

    def __reduce__(self):
        return getattr, (torch.Size, 'numel')


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('place', ['state_dict', 'message_hub', 'top'])
def test_code_is_refused_and_not_run(tmp_path, place, legacy):
    marker, path = tmp_path / 'ran', tmp_path / 'bad.pth'
    checkpoint = dict(state_dict=dict(w=torch.ones(2)), message_hub={})
    if place == 'top':
        checkpoint = Payload(marker)
    else:
        checkpoint[place]['w'] = Payload(marker)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"refused, it needs 'posix.system'") as error:
        load_checkpoint_file(path)
    assert '\n' not in str(error.value) and 'convert it once' in str(error.value)
    with pytest.raises(CheckpointError):
        CheckpointLoader.load_checkpoint(str(path))
    assert not marker.exists()


def test_plain_pickle_is_refused_and_not_run(tmp_path):
    marker, path = tmp_path / 'ran', tmp_path / 'bad.pth'
    path.write_bytes(pickle.dumps(dict(state_dict=Payload(marker))))
    with pytest.raises(CheckpointError):
        load_checkpoint_file(path)
    assert not marker.exists()


needs_stand_ins = pytest.mark.skipif(not stand_ins.available(), reason='torch 2.4 reads no stand-ins')


@needs_stand_ins
def test_getattr_stand_in_reaches_nothing(tmp_path):
    """builtins.getattr is on the list under its name only: what answers to it is inert."""
    path = tmp_path / 'reach.pth'
    torch.save(dict(state_dict={}, method=Reach()), path)
    assert load_checkpoint_file(path)['method'] is None


@needs_stand_ins
def test_mmengine_histories_are_read_as_plain_data(tmp_path):
    path = tmp_path / 'foreign.pth'
    history = HistoryBuffer([1.5, 2.5, 4.0], [1, 1, 2])
    torch.save(
        dict(
            state_dict=dict(w=torch.arange(3.0)),
            meta=dict(iter=np.int64(3), config='raise SystemExit'),
            message_hub=dict(
                log_scalars=dict(loss=history),
                runtime_info=dict(
                    best=np.float64(2.25), flag=np.bool_(True), table=np.arange(6.0).reshape(2, 3)
                ),
            ),
        ),
        path,
    )
    checkpoint = load_checkpoint_file(path)
    loss = checkpoint['message_hub']['log_scalars']['loss']
    assert loss['log_history'].tolist() == [1.5, 2.5, 4.0]
    assert loss['count_history'].tolist() == [1, 1, 2]
    assert loss['max_length'] == history.max_length
    info = checkpoint['message_hub']['runtime_info']
    assert info['best'] == 2.25 and type(info['best']) is float
    assert info['flag'] is True
    assert torch.equal(info['table'], torch.arange(6.0, dtype=torch.float64).reshape(2, 3))
    assert checkpoint['meta'] == dict(iter=3), 'Runner.resume would execute meta["config"]'
    torch.save(checkpoint, path)
    torch.load(path, weights_only=True)


@pytest.mark.parametrize('table', [np.array([dict(a=1)], dtype=object), np.array(['a'])])
def test_arrays_of_other_than_numbers_are_refused_with_the_way_out(tmp_path, table):
    """The file is whole: loading it again from where it came from would not help."""
    path = tmp_path / 'objects.pth'
    torch.save(dict(state_dict={}, table=table), path)
    with pytest.raises(CheckpointError, match='refused, it .*convert it once'):
        load_checkpoint_file(path)


@pytest.mark.parametrize('share', [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_one_clear_line(tmp_path, share):
    path = tmp_path / 'cut.pth'
    torch.save(dict(state_dict=dict(w=torch.zeros(1000))), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match='cut.pth') as error:
        load_checkpoint_file(path)
    assert '\n' not in str(error.value)


def test_missing_file_and_other_contents(tmp_path):
    with pytest.raises(CheckpointError, match='there is no such file'):
        load_checkpoint_file(tmp_path / 'none.pth')
    torch.save([torch.ones(1)], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list, expected a dict'):
        load_checkpoint_file(tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match="'step' is a int, not a tensor"):
        state_dict_of(dict(step=3))


def test_memory_bombs_are_refused(tmp_path):
    path = tmp_path / 'view.pth'
    torch.save(dict(state_dict=dict(w=torch.zeros(1).expand(10**10))), path)
    with pytest.raises(CheckpointError, match='claims 40000000000 bytes of tensors'):
        load_checkpoint_file(path)
    torch.save(dict(state_dict=dict(w=torch.zeros(10**6))), tmp_path / 'plain.pth')
    packed = tmp_path / 'packed.pth'
    with (
        zipfile.ZipFile(tmp_path / 'plain.pth') as source,
        zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as out,
    ):
        for record in source.namelist():
            out.writestr(record, source.read(record))
    with pytest.raises(CheckpointError, match='compressed records'):
        load_checkpoint_file(packed)


def test_mutated_files_give_the_defined_error(tmp_path):
    good = tmp_path / 'good.pth'
    torch.save(
        dict(meta=dict(iter=1), state_dict=dict(w=torch.arange(8.0)), history=HistoryBuffer([1.0], [1])), good
    )
    data, rng, path = good.read_bytes(), np.random.default_rng(0), tmp_path / 'mutant.pth'
    refused = 0
    for _ in range(300):
        mutant = bytearray(data)
        for position in rng.integers(0, len(data), rng.integers(1, 6)):
            mutant[position] = rng.integers(256)
        path.write_bytes(bytes(mutant))
        try:
            load_checkpoint_file(path)
        except CheckpointError as error:
            refused += 1
            assert '\n' not in str(error)
    assert refused > 50


def test_init_cfg_goes_through_the_safe_loader(tmp_path):
    marker, path = tmp_path / 'ran', tmp_path / 'weights.pth'
    torch.save(dict(state_dict=dict(w=Payload(marker))), path)
    module = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(CheckpointError, match='refused'):
        module.init_weights()
    assert not marker.exists()


def test_what_torch_wrote_before_2017_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / 'old.pth'
    with tarfile.open(path, 'w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            archive.addfile(tarfile.TarInfo(name))
    monkeypatch.setattr(torch, 'load', lambda *args, **kwargs: pytest.fail('it was read'))
    with pytest.raises(CheckpointError, match='old.pth: refused, it is a tar file'):
        load_checkpoint_file(path)


def test_copies_of_two_addresses_with_one_file_name_are_two(tmp_path, monkeypatch):
    served = {}
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        torch.save(
            dict(state_dict=dict(w=torch.full((1,), float(ord(name))))), tmp_path / name / 'backbone.pth'
        )
    downloads = []

    def download(url, target, sha):
        downloads.append((url, sha))
        Path(target).write_bytes((tmp_path / url.split('/')[-2] / 'backbone.pth').read_bytes())

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    for name in ('a', 'b', 'a'):
        loaded = CheckpointLoader.load_checkpoint(f'https://here.org/{name}/backbone.pth')
        served[name] = loaded['state_dict']['w'].item()
    assert served == dict(a=ord('a'), b=ord('b'))
    assert [sha for _, sha in downloads] == [None, None]
    CheckpointLoader.load_checkpoint('https://here.org/a/backbone-0123abcd.pth')
    assert downloads[-1][1] == '0123abcd'
    assert (tmp_path / 'hub' / 'checkpoints' / 'backbone-0123abcd.pth').exists()


@pytest.mark.parametrize(
    ('rank', 'expected'), [(0, ['download', 'barrier', 'barrier']), (1, ['barrier', 'barrier'])]
)
def test_of_several_processes_the_first_downloads(tmp_path, monkeypatch, rank, expected):
    events, cached = [], tmp_path / 'checkpoints' / 'w-0123abcd.pth'

    def make():
        cached.parent.mkdir(exist_ok=True)
        torch.save(dict(state_dict={}), cached)

    def barrier():
        if not cached.exists():  # what the first has done meanwhile
            make()
        events.append('barrier')

    def download(*_):
        events.append('download')
        make()

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    monkeypatch.setattr(checkpoint_loading, 'get_dist_info', lambda: (rank, 2))
    monkeypatch.setattr(checkpoint_loading, 'barrier', barrier)
    checkpoint_loading.load_from_http('https://here.org/w-0123abcd.pth')
    assert events == expected


def test_to_start_from_something_of_a_checkpoint_must_fit():
    model = torch.nn.Module()
    model.backbone, model.head = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    check_some_weights_fit(model, {'module.head.weight': torch.zeros(1, 2)}, 'a.pth')
    with pytest.raises(CheckpointError, match=r"model.backbone.init_cfg=dict\(_delete_=True.*source='a.pth'"):
        check_some_weights_fit(model, model.backbone.state_dict(), 'a.pth')
    with pytest.raises(CheckpointError, match='^checkpoint a.pth: .*no key of 1 fits it$'):
        check_some_weights_fit(model, {'w': torch.zeros(1)}, 'a.pth')
