"""The error of everything that a user of the APIs hands in."""


class InputError(ValueError):
    """An image, arrow, option or model name that cannot be used; the message is one sentence."""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InputError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InputError(f'{name} is {value!r}; expected one of {", ".join(map(repr, choices))}')
