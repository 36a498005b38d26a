"""The state of a run as plain data: tensors, numbers, strings, lists and dicts."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

_DROPPED = object()
_HISTORY_KEYS = {'log_history', 'count_history', 'max_length'}


def to_plain(value: Any, name: str = '') -> Any:
    """Turn a structure into one that ``torch.load(weights_only=True)`` reads back.

    Numpy numbers become Python's, arrays tensors, histories ``dict(log_history=(n,) tensor,
    count_history=(n,) tensor, max_length=int)``, paths strings, every mapping a dict. An object that is none
    of these is left out, with a line in the log: a checkpoint must never be lost to something a hook kept.

    Args:
        value: what to turn; it is not changed. Tensors are passed through, not copied.
        name: how to call it in the log.
    """
    plain = _to_plain(value, name)
    return None if plain is _DROPPED else plain


def _to_plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, (torch.Tensor, torch.dtype, torch.Size)):
        return value
    # Subclasses (numpy.str_, IntEnum ...) are reduced to the plain type.
    for kind in (bool, int, float, complex, str, bytes):
        if type(value) is kind:
            return value
    if isinstance(value, np.generic):
        return _to_plain(value.item(), name) if value.dtype.kind in 'biufcU' else _drop(value, name)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.ndarray):
        return (
            torch.from_numpy(np.array(value))
            if value.dtype.kind in 'biuf'
            else _to_plain(value.tolist(), name)
        )
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, HistoryBuffer):
        log, count = (torch.from_numpy(np.array(array)) for array in value.data)
        return dict(log_history=log, count_history=count, max_length=value.max_length)
    if isinstance(value, Mapping):
        items = {_to_plain(key, name): _to_plain(item, f'{name}.{key}') for key, item in value.items()}
        plain = OrderedDict() if isinstance(value, OrderedDict) else {}
        plain.update(
            (key, item) for key, item in items.items() if item is not _DROPPED and key is not _DROPPED
        )
        if hasattr(value, '_metadata') and isinstance(plain, OrderedDict):
            plain._metadata = value._metadata  # the module versions in a state dict
        return plain
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_to_plain(item, f'{name}[{index}]') for index, item in enumerate(value)]
        kind = tuple if isinstance(value, tuple) else set if isinstance(value, (set, frozenset)) else list
        return kind(item for item in items if item is not _DROPPED)
    return _drop(value, name)


def _drop(value: Any, name: str) -> Any:
    print_log(
        f'{name} is a {type(value).__name__}, not plain data: it is left out of the checkpoint',
        logger='current',
        level=logging.WARNING,
    )
    return _DROPPED


def restore_histories(message_hub: dict) -> None:
    """Undo :func:`to_plain` for the log histories in a message hub's state dict, in place."""
    scalars = message_hub.get('log_scalars')
    if not isinstance(scalars, dict):
        return
    for key, value in scalars.items():
        if isinstance(value, dict) and value.keys() == _HISTORY_KEYS:
            log, count = (value[name].cpu().numpy() for name in ('log_history', 'count_history'))
            scalars[key] = HistoryBuffer(log, count, max_length=int(value['max_length']))
