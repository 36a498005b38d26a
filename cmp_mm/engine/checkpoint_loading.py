"""Checkpoint files are read as data, never as programs, whatever the version of torch.

Importing ``cmp_mm.engine`` registers :func:`load_checkpoint_file` with mmengine's ``CheckpointLoader`` for
local files and for http(s), so that ``load_from``, ``resume`` and ``init_cfg`` all pass here.
"""

import hashlib
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.runner import CheckpointLoader
from torch import nn

from . import stand_ins

CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.tar', '.ckpt', '.safetensors')
# Dense tensors may be this many times larger than the file before a file is taken for a memory bomb
# (expanded tensors share storage, so a little sharing is legitimate), plus a floor for tiny files.
_MAX_EXPANSION = 8
_EXPANSION_FLOOR = 64 << 20


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, broken or not plain data; the message is one line."""


def load_checkpoint_file(path: str | os.PathLike, map_location: Any = None, mmap: bool = False) -> dict:
    """Read a checkpoint without running anything in it.

    mmengine's log histories and numpy numbers, which most OpenMMLab checkpoints hold, are read as plain
    tensors and numbers; any other object is refused.

    Args:
        path: a local file written by ``torch.save``.
        map_location: as for ``torch.load``; None means the CPU where there is no accelerator.
        mmap: map the tensors instead of reading them: enough to look at the other entries.

    Returns:
        The dict in the file. ``meta['config']`` is left out: ``Runner.resume`` would execute its text.

    Raises:
        CheckpointError: there is no such file, it is not whole, or it holds more than data.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f'checkpoint {path}: there is no such file')
    if map_location is None and not torch.cuda.is_available():
        map_location = 'cpu'
    try:
        _check_archive(path)
        checkpoint = _load_plain(path, map_location, mmap)
        if not isinstance(checkpoint, dict):
            raise CheckpointError(f'checkpoint {path}: holds a {type(checkpoint).__name__}, expected a dict')
        _check_expansion(checkpoint, path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from None
    except Exception as error:  # whatever torch, zip and pickle readers say about broken bytes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f'checkpoint {path}: not a whole checkpoint file ({lines[0][:200]})') from None
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        meta.pop('config', None)
    return checkpoint


def _load_plain(path: Path, map_location: Any, mmap: bool) -> Any:
    options = dict(map_location=map_location, weights_only=True)
    if mmap:
        options['mmap'] = zipfile.is_zipfile(path)
    try:
        return torch.load(path, **options)
    except pickle.UnpicklingError:
        if not stand_ins.available():
            raise
    with stand_ins.allowed():
        return stand_ins.resolve(torch.load(path, **options))


def _check_archive(path: Path) -> None:
    """torch stores its records uncompressed; a packed record can claim a thousand times its size."""
    if not zipfile.is_zipfile(path):
        if tarfile.is_tarfile(path):
            # What torch wrote before 0.1.10; its reader may run what it reads (CVE-2025-32434, torch < 2.6).
            raise CheckpointError(f'checkpoint {path}: refused, it is a tar file of a torch before 2017')
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(f'checkpoint {path}: has compressed records, which torch does not write')
    claimed, size = sum(record.file_size for record in records), path.stat().st_size
    if claimed > size:
        raise CheckpointError(
            f'checkpoint {path}: claims {claimed} bytes of records in a file of {size} bytes'
        )


def _check_expansion(checkpoint: dict, path: Path) -> None:
    """Refuse tensors that are views of a few bytes and would fill the memory once copied."""
    total, stack = 0, [checkpoint]
    while stack:
        value = stack.pop()
        if isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, (list, tuple)):
            stack.extend(value)
    size = path.stat().st_size
    if total > _MAX_EXPANSION * size + _EXPANSION_FLOOR:
        raise CheckpointError(f'checkpoint {path}: claims {total} bytes of tensors in a file of {size} bytes')


def _refusal(path: Path, reason: str) -> str:
    found = re.search(r'GLOBAL ([\w.]+)', reason)
    what = f'needs {found.group(1)!r}, which is code' if found else 'is no plain pickle of tensors'
    return (
        f'checkpoint {path}: refused, it {what}; only tensors, numbers, strings, lists and dicts are read. '
        "If you trust it, convert it once: python -c \"import torch, sys; torch.save({'state_dict': "
        "torch.load(sys.argv[1], 'cpu', weights_only=False)['state_dict']}, sys.argv[2])\" IN OUT"
    )


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = None) -> dict:
    """mmengine's loader of local files, see :func:`load_checkpoint_file`."""
    return load_checkpoint_file(filename, map_location)


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(filename: str, map_location: Any = None) -> dict:
    """mmengine's loader of URLs: download once into torch's cache, then read as data.

    A name ending in ``-<sha8>`` (as ``publish_model.py`` writes it) is checked against the contents. Other
    names say little (``backbone.pth``), so the address goes into the name of the copy.
    """
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    name = Path(urlparse(filename).path).name
    sha = re.search(r'-([a-f0-9]{8,})\.', name)
    cached = folder / (name if sha else f'{hashlib.sha256(filename.encode()).hexdigest()[:8]}-{name}')
    rank, world_size = get_dist_info()
    # Rank 0 first, then every rank that does not see its cache (another machine).
    for turn in (rank == 0, rank != 0):
        if turn and not cached.exists():
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(filename, str(cached), sha.group(1) if sha else None)
        if world_size > 1:
            barrier()
    return load_checkpoint_file(cached, map_location)


def state_dict_of(checkpoint: dict) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, with or without the usual ``state_dict`` entry around them.

    Raises:
        CheckpointError: there are no named tensors in it.
    """
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, dict) or not state:
        raise CheckpointError(
            f'no weights found: state_dict is {type(state).__name__}, expected named tensors'
        )
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise CheckpointError(
                f'no weights found: entry {key!r} is a {type(value).__name__}, not a tensor'
            )
    return state


@dataclass(frozen=True)
class KeyReport:
    """How a file's weights and a module's go together.

    Attributes:
        matched: number of the module's tensors that the file holds in their shape.
        missing: keys of the module that the file has not.
        unexpected: keys of the file that the module has not.
        misshapen: keys that both have, in different shapes.
    """

    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the weights fill the module exactly."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        groups = dict(missing=self.missing, unexpected=self.unexpected, misshapen=self.misshapen)
        lists = (f'{len(keys)} {name}{_first(keys)}' for name, keys in groups.items())
        return f'{self.matched} tensors matched; {"; ".join(lists)}'


def _first(keys: Sequence[str], most: int = 8) -> str:
    return ''.join(f' {key}' for key in keys[:most]) + (' ...' if len(keys) > most else '')


def compare_keys(module: nn.Module, state: Mapping[str, torch.Tensor]) -> KeyReport:
    """Compare a state dict with a module; ``num_batches_tracked`` may be missing, as in old files."""
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith('num_batches_tracked')]
    misshapen = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    return KeyReport(
        matched=sum(key in state for key in wanted) - len(misshapen),
        missing=tuple(missing),
        unexpected=tuple(key for key in state if key not in wanted),
        misshapen=tuple(misshapen),
    )


def check_weights_fit(model: nn.Module, state: Mapping[str, torch.Tensor], path: str) -> None:
    """Refuse a checkpoint of another network, which mmengine would load as far as it goes.

    Raises:
        CheckpointError: names how many keys are missing, unexpected or of another shape.
    """
    report = compare_keys(model, {re.sub(r'^module\.', '', key): value for key, value in state.items()})
    groups = {
        'missing': report.missing,
        'unexpected': report.unexpected,
        'of another shape': report.misshapen,
    }
    parts = [
        f'{len(keys)} {what} ({", ".join(keys[:3])}{", ..." if len(keys) > 3 else ""})'
        for what, keys in groups.items()
        if keys
    ]
    if parts:
        raise CheckpointError(f'checkpoint {path} is not one of this config: keys {"; ".join(parts)}')


def check_some_weights_fit(model: nn.Module, state: Mapping[str, torch.Tensor], path: str) -> None:
    """Refuse to start a network from a checkpoint that has nothing for it, which mmengine only logs.

    Raises:
        CheckpointError: not one tensor fits; of those of its backbone, tells how to load them.
    """
    state = {re.sub(r'^module\.', '', key): value for key, value in state.items()}
    if compare_keys(model, state).matched:
        return
    reason = f'load_from takes one of this network, and no key of {len(state)} fits it'
    backbone = getattr(model, 'backbone', None)
    if isinstance(backbone, nn.Module) and compare_keys(backbone, state).matched:
        reason = (
            'load_from takes one of the whole network, and this holds a backbone; start from it by '
            '--cfg-options '
            f"\"model.backbone.init_cfg=dict(_delete_=True,type='cmp_mm.BackboneInit',source='{path}')\""
        )
    raise CheckpointError(f'checkpoint {path}: {reason}')
