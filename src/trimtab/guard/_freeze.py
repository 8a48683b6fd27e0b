"""Functions frozen with the variables of now, so that they give the same loss again later."""

from collections.abc import Callable
from typing import Any

from trimtab.guard._captured import captured
from trimtab.guard._frozen import Frozen

__all__ = ["captured", "freeze"]


def freeze(function: Callable[..., Any], *, copy: bool = False) -> Frozen:
    """Return a function that goes on seeing the variables that `function` sees now.

    Bound are the variables of the function around it, the globals that it names, and attributes of
    objects that it reads (`self.x`); likewise for functions of the same module that it
    calls. Models, optimizers, modules and classes are shared, not copied.

    A tensor is kept by reference. If it is written to later, the frozen function says so when it
    is called, rather than give another loss.

    Args:
        function: A function, lambda, `functools.partial` or bound method; any other callable is
            taken as it is.
        copy: Copy tensors that are not parameters, for loops that use one batch's memory again.

    Example:
        >>> import torch
        >>> x = torch.ones(2)
        >>> loss = freeze(lambda: x.sum())
        >>> x = torch.zeros(2)
        >>> loss()
        tensor(2.)
    """
    return Frozen(function, copy=copy)
