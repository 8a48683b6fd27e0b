"""One bad micro-batch is left out of its accumulation window, and the rest is kept."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.engine import _ranks
from trimtab.guard import BufferKeeper, Policy
from trimtab.optim import grad_norms


class MicroGuard:
    """Judges each micro-batch by itself, before its gradient joins the others.

    The sum so far is set aside during a backward pass, and what came is added to it, unless it is
    not finite or the policy takes it for an outlier. That costs the memory of one more gradient,
    and a pass over it for its norm. Sums are bit for bit those of autograd's own accumulation.

    Args:
        model: Its buffers are put back as well.
        params: That have gradients.
        policy: Judges micro-batches; remembers nothing yet.
        shared: Whether the gradients of a micro-batch are those of all ranks, which then have to
            decide alike.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Sequence[nn.Parameter],
        policy: Policy,
        *,
        shared: bool,
    ) -> None:
        self._params, self.policy = params, policy
        self._shared: Final = shared
        self._keeper = BufferKeeper(model)
        self._sums: list[Tensor | None] = []

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Set the sum of the gradients so far aside; it comes back if `after` is not called."""
        self._sums = [p.grad for p in self._params]
        for p in self._params:
            p.grad = None
        self._keeper.renew()
        try:
            yield
        finally:
            if self._sums:
                self._give_up()

    def _give_up(self) -> None:
        for p, old in zip(self._params, self._sums, strict=True):
            p.grad = old
        self._sums = []

    @torch.no_grad()
    def after(
        self, loss: Tensor, factor: float | Tensor, *, scaled: bool, at_once: bool
    ) -> bool | Tensor:
        """Judge what came, and add it to the sum if it is sound.

        Args:
            loss: Of the micro-batch, 0-d.
            factor: What its gradient was multiplied by.
            scaled: Whether by a loss scale, so that an infinite gradient of a finite loss says
                nothing of the data.
            at_once: Whether the host may look.

        Returns:
            Whether it was left out; as 0 or 1 on the device if the host may not look.
        """
        fresh = [p for p in self._params if p.grad is not None]
        norm = grad_norms(fresh).total.to(loss.device) / factor
        verdict = self.policy.judge(loss, norm) != 0
        if scaled:
            verdict = verdict & (norm.isfinite() | ~loss.isfinite())
        if self._shared:
            verdict = _ranks.any_rank(verdict)
        if not at_once:
            self._merge_where(~verdict)
            self._keeper.put_back(verdict.float())
            return verdict.float()
        bad = bool(verdict)
        if bad:
            self._give_up()
        else:
            self._merge()
        self._keeper.put_back(bad)
        return bad

    def _merge(self) -> None:
        """Add what came to the sum, as autograd would have."""
        olds: list[Tensor] = []
        news: list[Tensor] = []
        for p, old in zip(self._params, self._sums, strict=True):
            if old is None:
                continue
            if p.grad is not None and old.is_sparse == p.grad.is_sparse:
                olds.append(old)
                news.append(p.grad)
            elif p.grad is not None:
                p.grad = old + p.grad
                continue
            p.grad = old
        if olds and not olds[0].is_sparse:
            torch._foreach_add_(olds, news)
        else:
            for old, new in zip(olds, news, strict=True):
                old.add_(new)
        self._sums = []

    def _merge_where(self, sound: Tensor) -> None:
        """Add what came where it is sound, without looking; zero times NaN would be NaN."""
        for p, old in zip(self._params, self._sums, strict=True):
            if p.grad is None:
                p.grad = old
                continue
            kept = torch.where(sound, p.grad, torch.zeros_like(p.grad))
            p.grad = kept if old is None else old.add_(kept)
        self._sums = []

    def close(self) -> None:
        """Take the hook off."""
        self._keeper.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what later verdicts depend on."""
        return self.policy.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.policy.load_state_dict(state)


def kept_weight(weight: float | Tensor, bad: bool | Tensor) -> float | Tensor:  # noqa: FBT001 # a verdict
    """Return the weight of a micro-batch that counts: 0 if it was left out."""
    if isinstance(bad, Tensor):
        return weight * (1 - bad)
    return 0.0 if bad else weight


def kept_loss(loss: Tensor, bad: bool | Tensor) -> Tensor:  # noqa: FBT001 # a verdict
    """Return the loss of a micro-batch that counts: 0 if it was left out, whatever it was."""
    if isinstance(bad, Tensor):
        return torch.where(bad != 0, torch.zeros_like(loss), loss)
    return torch.zeros_like(loss) if bad else loss
