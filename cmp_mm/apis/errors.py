"""The error and the warning of everything that a user of the APIs hands in."""

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral


class InputError(ValueError):
    """An image, arrow, option or model name that cannot be used; the message is one sentence."""


class InputWarning(UserWarning):
    """An input that is used but may not give what was meant; the message is one sentence, without a stop."""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InputError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InputError(f'{name} is {value!r}; expected one of {", ".join(map(repr, choices))}')


def check_count(name: str, value: object, least: int) -> int:
    """A whole number of at least ``least``, of Python or NumPy, as an int; else raise InputError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f'{name} is {value!r}; expected a whole number of at least {least}')
    return int(value)


def unknown_option(call: str, given: Iterable[str], calls: Mapping[str, Iterable[str]]) -> InputError:
    """The error for options that a call does not take: which one does, or what may have been meant.

    Args:
        call: the name of the call, such as 'encode()', one of ``calls``.
        given: the options that it does not take, at least one.
        calls: what there is to call, by name, and the options of each.
    """
    told = []
    for option in given:
        takers = [name for name, options in calls.items() if option in options]
        close = difflib.get_close_matches(option, calls[call], n=1)
        hint = ''
        if takers:
            hint = f' ({" and ".join(takers)} {"take" if len(takers) > 1 else "takes"} it)'
        elif close:
            hint = f' (did you mean {close[0]!r}?)'
        told.append(f'{option!r}{hint}')
    return InputError(f'{call} has no option {" or ".join(told)}')


@contextmanager
def input_warnings() -> Iterator[list[str]]:
    """Gather this project's warnings on the input: a list of sentences, filled at the end."""
    sentences: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always', InputWarning)
            yield sentences
    finally:
        for each in caught:
            sentence = f'Warning: {each.message}.'
            if not issubclass(each.category, InputWarning):
                # The filters are of the whole process: another thread's is shown where it would have been.
                warnings.showwarning(each.message, each.category, each.filename, each.lineno)
            elif sentence not in sentences:
                sentences.append(sentence)
