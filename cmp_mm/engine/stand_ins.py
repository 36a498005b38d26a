"""Inert stand-ins for the few non-tensor objects that ordinary OpenMMLab checkpoints hold.

mmengine pickles its log history (``HistoryBuffer``), which needs numpy's array machinery and ``getattr``
to be read back. Allow-listing the real ones would open a hole (``getattr`` reaches everything), so
torch's restricted unpickler is given these classes and functions *under the real names*: they take the
arguments, keep the numbers and run nothing.
"""

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# Kinds of numpy scalars that are plain numbers: bool, signed, unsigned, float.
_NUMBER_KINDS = 'biuf'


class HistoryStandIn:
    """Takes the place of ``mmengine.logging.HistoryBuffer``: keeps its two arrays."""

    def __init__(self) -> None:
        self.state: dict = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


class DtypeStandIn:
    """Takes the place of ``numpy.dtype``: holds the checked type string."""

    def __init__(self, code: str = '', *_: Any) -> None:
        self.code = code if isinstance(code, str) else ''
        self.byteorder = '='

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ('<', '>', '=', '|'):
            self.byteorder = state[1]

    def dtype(self) -> np.dtype:
        """The numpy dtype, only if it is one of plain numbers."""
        letters = self.code[1:] if self.code[:1] in '<>=|' else self.code
        if not (letters[:1] in _NUMBER_KINDS + '?' and letters[1:] in ('', '1', '2', '4', '8')):
            raise pickle.UnpicklingError(f'numpy type {self.code!r} is not one of plain numbers')
        return np.dtype(letters).newbyteorder(self.byteorder)


class ArrayStandIn:
    """Takes the place of ``numpy.ndarray``: a plain array, made from its bytes."""

    def __init__(self, *_: Any) -> None:
        self.value = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, DtypeStandIn) or not isinstance(data, bytes):
            raise pickle.UnpicklingError('a numpy array holds objects instead of numbers')
        # frombuffer and reshape check the claimed shape against the bytes that are there.
        self.value = np.frombuffer(data, dtype.dtype()).reshape(shape, order='F' if fortran else 'C').copy()


def _scalar(dtype: Any, data: Any) -> bool | int | float:
    if not isinstance(dtype, DtypeStandIn) or not isinstance(data, bytes):
        raise pickle.UnpicklingError('a numpy scalar holds an object instead of a number')
    return np.frombuffer(data, dtype.dtype(), count=1)[0].item()


def _getattr(*_: Any) -> None:
    """HistoryBuffer names its statistics methods by ``getattr``; nothing reads them here."""


def _named(target: Callable, name: str) -> Callable:
    """A copy of ``target`` that torch's allow-list takes for ``name``."""
    module, _, attribute = name.rpartition('.')
    if isinstance(target, type):
        copy: Any = type(attribute, (target,), {'__module__': module, '__qualname__': attribute})
    else:

        def copy(*args: Any) -> Any:
            return target(*args)

        copy.__module__, copy.__qualname__, copy.__name__ = module, attribute, attribute
    return copy


_NDARRAY = _named(ArrayStandIn, 'numpy.ndarray')


def _reconstruct(*_: Any) -> ArrayStandIn:
    # The named class, because torch sets the state only of classes on its list.
    return _NDARRAY()


_STAND_INS = [
    _named(HistoryStandIn, 'mmengine.logging.history_buffer.HistoryBuffer'),
    _named(_getattr, 'builtins.getattr'),
    _NDARRAY,
    _named(DtypeStandIn, 'numpy.dtype'),
    # numpy 2 moved these; files name the room of the numpy they were written with.
    _named(_reconstruct, 'numpy.core.multiarray._reconstruct'),
    _named(_reconstruct, 'numpy._core.multiarray._reconstruct'),
    _named(_scalar, 'numpy.core.multiarray.scalar'),
    _named(_scalar, 'numpy._core.multiarray.scalar'),
]


def available() -> bool:
    """Whether this torch can take stand-ins (torch >= 2.5)."""
    return hasattr(torch.serialization, 'safe_globals')


@contextmanager
def allowed() -> Iterator[None]:
    """Within it, ``torch.load(weights_only=True)`` reads the objects named above as stand-ins."""
    with torch.serialization.safe_globals(_STAND_INS):
        yield


def resolve(value: Any) -> Any:
    """Replace every stand-in in a loaded structure by plain data.

    A history becomes ``dict(log_history=Tensor, count_history=Tensor, max_length=int)``, the form in which
    :class:`AtomicCheckpointHook` stores it; an array becomes a tensor.

    Raises:
        pickle.UnpicklingError: a stand-in stands where only its contents make sense.
    """
    if isinstance(value, HistoryStandIn):
        state = value.state
        arrays = [state.get('_log_history'), state.get('_count_history')]
        if not all(isinstance(array, ArrayStandIn) for array in arrays):
            raise pickle.UnpicklingError('a HistoryBuffer without its two arrays')
        log, count = (resolve(array) for array in arrays)
        length = state.get('max_length')
        return dict(log_history=log, count_history=count, max_length=int(length or sys.maxsize))
    if isinstance(value, ArrayStandIn):
        array = value.value
        # Tensors know the machine's own byte order only.
        return torch.from_numpy(array.astype(array.dtype.newbyteorder('=')))
    if isinstance(value, DtypeStandIn) or (isinstance(value, type) and issubclass(value, ArrayStandIn)):
        raise pickle.UnpicklingError('a bare numpy type')
    if isinstance(value, dict):
        # In place: an OrderedDict of weights keeps its ``_metadata`` attribute.
        for key in list(value):
            value[key] = resolve(value[key])
        return value
    if isinstance(value, list):
        value[:] = [resolve(item) for item in value]
        return value
    if type(value) is tuple:
        return tuple(resolve(item) for item in value)
    return value
