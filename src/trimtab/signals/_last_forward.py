"""The last training forward pass, kept until its step is done, so that it can be run again."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.signals._locate import NonfiniteSource, locate_nonfinite, locate_nonfinite_gradient
from trimtab.signals._taps import Uncopied, find_tensor, is_dense, unwrapped

MAX_RERUNS: Final = 3
"""Forward passes of a run that are run again: the first failures tell, and a run that fails at
every step must not take twice as long."""


@dataclass(frozen=True)
class _Forward:
    """What the model was called with; nothing of it is copied."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    autocast: torch.dtype | None
    first: Tensor | None
    version: int


class LastForward(Uncopied):
    """The forward pre-hook that keeps the inputs of a step's last training forward pass.

    Compiled code keeps nothing, nor do models that one process cannot run alone: sharded ones, and
    those with batch norms that are synchronised.

    Args:
        model: As it is called.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._root = model, unwrapped(model)
        self._kept: _Forward | None = None
        self._num_passes = 0
        self._num_reruns = 0
        self.keeps = True
        """Whether inputs are kept at all."""
        self._handle = model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(
        self,
        module: nn.Module,  # noqa: ARG002 # torch's
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        """Keep the inputs of one forward pass."""
        if torch.compiler.is_compiling():
            return
        if not (self.keeps and torch.is_grad_enabled() and self._root.training):
            return
        self._num_passes += 1
        first = find_tensor((args, kwargs), is_dense)
        kind = "cpu" if first is None else first.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        version = -1 if first is None or first.is_inference() else first._version
        self._kept = _Forward(args, kwargs, autocast, first, version)

    def drop(self) -> None:
        """Let go of the inputs: the step is done."""
        self._kept, self._num_passes = None, 0

    def remove(self) -> None:
        """Take the hook off."""
        self._handle.remove()
        self.drop()

    def locate(
        self,
        params: Iterable[tuple[str, nn.Parameter]],
        order: Sequence[str],
        *,
        loss: float | None,
        scaled: bool,
    ) -> NonfiniteSource | None:
        """Say what was the first in this step that is not finite; None if that cannot be told.

        Args:
            params: Names and parameters, with their gradients.
            order: Modules in the order of the forward pass.
            loss: None if it is not known.
            scaled: Whether the loss was scaled: then a gradient that overflows is no fault, and
                nothing is looked for unless the loss itself is not finite.
        """
        kept, alone = self._kept, self._num_passes == 1
        self.drop()
        finite = None if loss is None else -float("inf") < loss < float("inf")
        if kept is None or self._num_reruns >= MAX_RERUNS or (scaled and finite is not False):
            return None
        overwritten = kept.first is not None and kept.version >= 0
        if overwritten and kept.version != kept.first._version:  # type: ignore[union-attr]
            return None
        if not _runs_alone(self._root):
            self.keeps = False
            return None
        self._num_reruns += 1
        try:
            source = self._rerun(kept)
        except Exception:  # noqa: BLE001 # whatever a user's forward raises must not end the run
            return None
        if source is not None or not alone or _num_processes() > 1:
            return source  # of several passes or processes, another one may be to blame
        if finite is False:
            return NonfiniteSource(kind="loss", site="loss")
        site = locate_nonfinite_gradient(params, order)
        return None if site is None else NonfiniteSource(kind="gradient", site=site)

    def _rerun(self, kept: _Forward) -> NonfiniteSource | None:
        kind = "cpu" if kept.first is None else kept.first.device.type
        mixed: Any = nullcontext()
        if kept.autocast is not None:
            # Without the cache: it would keep weights cast without a graph for what comes later.
            mixed = torch.autocast(kind, kept.autocast, cache_enabled=False)
        with mixed:
            return locate_nonfinite(self._root, kept.args, kept.kwargs)


def _runs_alone(root: nn.Module) -> bool:
    """Tell whether one process can run the model without the others."""
    for module in root.modules():
        if isinstance(module, nn.SyncBatchNorm):
            return False
        if type(module).__name__ == "FullyShardedDataParallel":
            return False
    return not any(hasattr(p, "to_local") for p in root.parameters())


def _num_processes() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1
