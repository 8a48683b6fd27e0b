"""Remedies for dropout: too strong, or in evaluation too."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from trimtab.diagnosis._trials import strongest_dropout, weaken_dropout
from trimtab.engine import TrainingSetup
from trimtab.preflight.tt026_dropout_in_evaluation import DROPOUTS
from trimtab.repair._edit import Edit
from trimtab.repair._graph import caller
from trimtab.repair._mixed import look, mix_in, own_model
from trimtab.repair._remedy import Order

MOST: Final = 0.1
"""What a dropout that is too strong is reduced to."""

_PLACE: Final = 4
"""Place of attention's `dropout_p`, which is applied in evaluation too."""


class Dropping(TorchFunctionMode):
    """Sees calls that drop, and gives them another share.

    Args:
        most: Largest share that may be dropped; 0 for none, as in evaluation.
    """

    def __init__(self, most: float = 1.0) -> None:
        super().__init__()
        self.most = most
        self.seen: dict[str, float] = {}
        """Share that a call drops, by its line."""

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in DROPOUTS and kwargs.get("training") and "p" in kwargs:
            kwargs["p"] = self._allowed(kwargs["p"])
        elif func is functional.scaled_dot_product_attention:
            if len(args) > _PLACE:
                args = (*args[:_PLACE], self._allowed(args[_PLACE]), *args[_PLACE + 1 :])
            elif "dropout_p" in kwargs:
                kwargs["dropout_p"] = self._allowed(kwargs["dropout_p"])
        return func(*args, **kwargs)

    def _allowed(self, share: float) -> float:
        frame = caller(within_torch=True)
        if frame is not None and share > 0:
            line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            self.seen[line] = max(share, self.seen.get(line, 0.0))
        return min(share, self.most)


class _Modest(nn.Module):
    """The first base of a model that drops this much at the most, and nothing in evaluation."""

    most_dropped = 1.0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with Dropping(self.most_dropped if self.training else 0.0):
            return super().forward(*args, **kwargs)


def calls_that_drop(
    model: nn.Module, sample: Sequence[tuple[Any, Any]], *, training: bool
) -> dict[str, float]:
    """Return the share that each line of a model's own code drops, in one of its modes.

    Args:
        model: Run once on a sample; it is left as it was.
        sample: Batches.
        training: The mode.
    """
    mode = Dropping()
    look(model, sample, lambda: mode, training=training)
    return mode.seen


def follow_mode(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Let dropout that the model's own code calls do nothing in evaluation."""
    model = own_model(setup.model)
    seen = calls_that_drop(setup.model, order.sample, training=False)
    if not seen:
        return []
    mix_in(model, _Modest)
    where = ", ".join(sorted(seen))
    return [
        Edit(
            what="dropout in evaluation",
            where=where,
            before=f"{max(seen.values()):.3g}",
            after="none",
            advice=f"in {where}: pass training=self.training to functional.dropout (and "
            "dropout_p=0.0 to attention unless self.training), or make nn.Dropout once, in "
            "__init__; otherwise it goes on after model.eval()",
        )
    ]


def set_dropout(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Let no dropout drop more than a tenth."""
    seen = calls_that_drop(setup.model, order.sample, training=True)
    before = max([*_dropouts(setup.model), *seen.values()], default=0.0)
    if before <= MOST:
        return []
    weaken_dropout(setup.model)
    for module in setup.model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = min(module.dropout, MOST)
    if any(share > MOST for share in seen.values()):
        mix_in(own_model(setup.model), _Modest, most_dropped=MOST)
    return [
        Edit(
            what="dropout",
            before=f"{before:.3g}",
            after=f"{float(order.args.get('p', MOST)):.3g}",
            advice="use a dropout of 0.1 to 0.5; p is the share that is dropped, not kept",
        )
    ]


def _dropouts(model: nn.Module) -> Iterator[float]:
    yield strongest_dropout(model)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            yield module.dropout
