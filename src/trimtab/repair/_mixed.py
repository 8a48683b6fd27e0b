"""Other ways for a model to run its own forward, and one look at it on a sample."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import nn

from trimtab.diagnosis._batches import call_model
from trimtab.init._probe import unchanged
from trimtab.repair._scaled import Scaled


def own_model(model: nn.Module) -> nn.Module:
    """Return the author's model, without what a remedy has put around it."""
    return model.model if isinstance(model, Scaled) else model


def mix_in(model: nn.Module, part: type[nn.Module], **attributes: Any) -> None:
    """Let a class come first among the bases of one model; its name, and what it is, stay.

    Args:
        model: Changed in place; its parameters, hooks and state stay the same objects.
        part: With a `forward` that calls `super().forward`.
        attributes: Of the new class.
    """
    kind = type(model)
    named = {"__module__": kind.__module__, **attributes}
    bases = (kind,) if issubclass(kind, part) else (part, kind)
    model.__class__ = type(kind.__name__, bases, named)


def look(
    model: nn.Module,
    sample: Sequence[tuple[Any, Any]],
    watch: Callable[[], AbstractContextManager[Any]],
    *,
    training: bool,
) -> bool:
    """Run a model once on the first batch of a sample, and leave no trace of it.

    Args:
        model: Run without gradients.
        sample: Batches; without one nothing is run.
        watch: Gives what is entered meanwhile.
        training: Mode to run in.

    Returns:
        Whether the model could be run.
    """
    if not sample:
        return False
    with unchanged(model), torch.no_grad(), suppress(Exception):  # the loop body asks otherwise
        model.train(training)
        with watch():
            call_model(model, sample[0][0])
        return True
    return False
