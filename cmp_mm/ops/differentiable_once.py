"""A backward pass that says so where it would be differentiated again."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def differentiable_once(instead: str) -> Callable[[Callable], Callable]:
    """Refuse ``create_graph=True`` in the backward pass of an ``autograd.Function``.

    torch's ``once_differentiable`` refuses only if the gradient that comes in needs a gradient itself. That
    of a plain loss does not, and a gradient penalty would be left out without a word.

    Args:
        instead: end of the error's sentence: what can be differentiated twice.
    """

    def decorate(backward: Callable) -> Callable:
        @wraps(backward)
        def checked(ctx: Any, *gradients: torch.Tensor) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    f'this backward pass cannot be differentiated (create_graph=True); {instead}'
                )
            return backward(ctx, *gradients)

        return checked

    return decorate
