"""Mistakes in a config that mmengine meets as it builds a part, and tells of by a traceback."""

import difflib
import inspect
import re
from collections.abc import Iterable
from types import FrameType, TracebackType

from torch.utils.data import DataLoader

from cmp_mm.registry import MODELS, TASK_UTILS

# Where mmengine calls the class of a part, and the class, or what it is called there.
_CALLS = {'build_from_cfg': 'obj_cls', 'get_instance': 'cls', 'build_dataloader': DataLoader}


def config_mistake(error: BaseException) -> str | None:
    """What is wrong in the config, in one sentence; None if the error is not of its making.

    Known are an option that a part does not have, one that it needs, a type that is in no registry, a value
    that a part of this package or an optimizer of torch refuses, and parts of a network that do not go
    together.
    """
    if _is_misfit(error):
        return str(error)
    frame, is_last = _building_frame(error.__traceback__)
    if frame is None:
        return None
    kind = _CALLS[frame.f_code.co_name]
    kind = frame.f_locals.get(kind) if isinstance(kind, str) else kind
    if isinstance(error, KeyError) and is_last and kind is None:
        registry, wanted = frame.f_locals['registry'], frame.f_locals.get('obj_type')
        near = _nearest(str(wanted), registry.module_dict)
        return f'no {registry.name} is called {wanted!r}' + (f'; there is {near}' if near else '')
    module = str(getattr(kind, '__module__', ''))
    if isinstance(error, ValueError) and module.startswith('cmp_mm.'):
        return str(error)
    if isinstance(error, ValueError) and module.startswith('torch.optim.'):
        return f'{kind.__name__}: {error}'
    if not isinstance(error, TypeError) or kind is None:
        return None
    # Options may be handed on to a base class; an error in any other call is not the config's.
    inherited = re.match(r'(\w+)\.__init__\(\)', str(error))
    if not is_last and not (inherited and inherited[1] in [one.__name__ for one in _bases(kind)]):
        return None
    name = getattr(kind, '__name__', str(kind))
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown:
        options = _options(kind)
        near = _nearest(unknown[1], options)
        hint = f'did you mean {near}?' if near else f'it has {", ".join(options) or "none"}'
        return f'{name} has no option {unknown[1]!r}; {hint}'
    missing = re.search(r'missing \d+ required .*arguments?: (.+)', str(error))
    return f'{name} needs {missing[1]}, which the config does not give' if missing else None


def _is_misfit(error: BaseException) -> bool:
    """Whether parts of a network of this package do not go together, which shows in its first step only.

    Such a part names itself in the message, or what it is.
    """
    traceback = error.__traceback__
    if traceback is None or not isinstance(error, ValueError):
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = str(error).partition(': ')[0]
    known = name in ('decoder', 'loss') or any(name in one.module_dict for one in (MODELS, TASK_UTILS))
    return known and str(traceback.tb_frame.f_globals.get('__name__')).startswith('cmp_mm.models.')


def _building_frame(traceback: TracebackType | None) -> tuple[FrameType | None, bool]:
    """mmengine's frame that built the innermost part, and whether the error was raised there.

    Of a call whose arguments do not fit that is the caller's frame.
    """
    found, is_last = None, False
    while traceback is not None:
        code = traceback.tb_frame.f_code
        is_last = code.co_name in _CALLS and 'mmengine' in code.co_filename
        found = traceback.tb_frame if is_last else found
        traceback = traceback.tb_next
    return found, is_last


def _bases(kind: object) -> tuple[type, ...]:
    return kind.__mro__ if isinstance(kind, type) else ()


def _options(kind: object) -> list[str]:
    """Names of what a class, or another callable, and its bases take."""
    names: dict[str, None] = {}
    for one in _bases(kind) or (kind,):
        try:
            parameters = inspect.signature(one).parameters.values()
        except (TypeError, ValueError):  # written in C
            continue
        names |= {p.name: None for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break  # nothing is handed on
    return list(names)


def _nearest(wanted: str, names: Iterable[str]) -> str | None:
    found = difflib.get_close_matches(wanted, list(names), n=1)
    return repr(found[0]) if found else None
