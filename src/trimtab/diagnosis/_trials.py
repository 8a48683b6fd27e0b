"""Trials: the same run again with one thing changed, to see which change heals it."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab import init
from trimtab.checkpoint import seeded
from trimtab.diagnosis._batches import Batches, tensors_in
from trimtab.diagnosis._job import Job, Watched
from trimtab.diagnosis._outcome import NUM_PROBED, Outcome, probe
from trimtab.diagnosis._state import State

MAX_STEPS: Final = 100
"""Steps of a trial: enough to see whether a run comes to life."""

ODD_SCALE: Final = 10.0
"""Ratio of scales from which on inputs are worth a trial: standardised ones are within 2."""

PAST: Final = 40
"""Steps that a trial goes on after the one in which the run itself failed."""

_RATES: Final = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")

Change = Callable[[Job], Any]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One change of a run, and how the run went with it."""

    name: str
    """Such as `"learning rate x 0.1"`."""
    kind: str
    """What was changed: `lr`, `inputs`, `initialisation`, `decay`, `optimizer` or `batch`."""
    factor: float
    """Of the learning rate."""
    outcome: Outcome

    @property
    def learned(self) -> float:
        """Share of the loss that it took off; minus infinity if it broke."""
        value = self.outcome.learned
        return value if value == value and not self.outcome.broken else float("-inf")


class Trials:
    """Runs a job again from its beginning, with changes.

    Args:
        job: The run.
        state: Its beginning.
        batches: What it was trained on.
        steps: Of each trial.
        seed: Of its random numbers.
        base: The outcome of the run itself.
        update_ratio: Median over steps and weights of the run itself; NaN if not measured.
    """

    def __init__(
        self,
        job: Job,
        state: State,
        batches: Batches,
        *,
        steps: int,
        seed: int,
        base: Outcome,
        update_ratio: float,
    ) -> None:
        self.job, self.state, self.batches, self.base = job, state, batches, base
        self.update_ratio: Final = update_ratio
        failed = base.failed_at or 0  # a trial has to get past the place where the run failed
        self.steps: Final = min(steps, max(MAX_STEPS, failed + PAST))
        self.seed: Final = seed
        self.done: list[Trial] = []

    def learning_rate(self, factor: float) -> Trial:
        """Train with the learning rate times a factor."""
        name = f"learning rate × {factor:g}"
        return self._try(name, "lr", lambda job: scale_rates(job, factor), factor=factor)

    def inputs(self) -> Trial:
        """Train on inputs with mean 0 and standard deviation 1 for each feature."""
        change = standardiser(self.batches.kept)
        return self._try("standardised inputs", "inputs", None, inputs=change)

    def initialisation(self) -> Trial:
        """Train from fresh initial weights."""
        return self._try("fresh initialisation", "initialisation", lambda j: reinitialise(j.model))

    def decay(self) -> Trial:
        """Train without weight decay."""
        return self._try("no weight decay", "decay", lambda job: _set(job, weight_decay=0.0))

    def dropout(self) -> Trial:
        """Train with little dropout."""
        return self._try("dropout of 0.1", "dropout", lambda job: weaken_dropout(job.model))

    def optimizer(self) -> Trial:
        """Train with the optimizer's usual momentum, betas and epsilon."""
        return self._try("usual optimizer settings", "optimizer", usual_settings)

    def unfrozen(self) -> Trial:
        """Train all parameters."""
        return self._try("all parameters trained", "frozen", unfreeze)

    def one_batch(self) -> Trial:
        """Train on the first batch alone."""
        return self._try("one batch", "batch", None, num_batches=1)

    def _try(
        self,
        name: str,
        kind: str,
        change: Change | None,
        *,
        inputs: Callable[[Any], Any] | None = None,
        factor: float = 1.0,
        num_batches: int | None = None,
    ) -> Trial:
        self.state.restore()
        replayed = Batches(
            [(x if inputs is None else inputs(x), y) for x, y in self._kept(num_batches)]
        )
        with seeded(self.seed):
            if change is not None:
                change(self.job)
            log = Watched(self.job).run(replayed.take(self.steps), every=0)
            failed = log.error is not None
            end = None if failed else probe(self.job, replayed.first(NUM_PROBED), self.seed)
        outcome = Outcome(self.base.start, end, self.base.constant, log.losses)
        trial = Trial(name=name, kind=kind, factor=factor, outcome=outcome)
        self.done.append(trial)
        self.state.restore()
        return trial

    def _kept(self, count: int | None) -> Sequence[Any]:
        return self.batches.kept[: self.steps if count is None else count]


def scale_rates(job: Job, factor: float) -> None:
    """Multiply every learning rate that optimizer and schedule know by a factor."""
    for group in job.optimizer.param_groups:
        for key in _RATES:
            if isinstance(group.get(key), int | float):
                group[key] *= factor
            elif isinstance(group.get(key), Tensor):
                group[key] = group[key] * factor
    theirs = [v for v in job.others if getattr(v, "optimizer", None) is job.optimizer]
    found = {id(s): s for each in (job.scheduler, *theirs) for s in _schedules(each)}
    for schedule in found.values():
        for key in ("base_lrs", "max_lrs", "min_lrs"):
            if isinstance(getattr(schedule, key, None), list):
                setattr(schedule, key, [v * factor for v in getattr(schedule, key)])
        if isinstance(getattr(schedule, "eta_min", None), int | float):
            schedule.eta_min *= factor


def _schedules(scheduler: Any) -> Iterator[Any]:
    if scheduler is not None:
        yield scheduler
        for part in getattr(scheduler, "_schedulers", ()):
            yield from _schedules(part)


def unfreeze(job: Job) -> None:
    """Train what is frozen too, with the settings of the first group."""
    held = {id(p) for g in job.optimizer.param_groups for p in g["params"]}
    new = [p for p in job.model.parameters() if id(p) not in held]
    job.model.requires_grad_(True)  # noqa: FBT003 # torch's
    if new:
        first = {k: v for k, v in job.optimizer.param_groups[0].items() if k != "params"}
        job.optimizer.add_param_group({**first, "params": new})


def strongest_dropout(model: nn.Module) -> float:
    """Return the largest share that a dropout layer drops; 0 without any."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    return max((m.p for m in layers), default=0.0)


def weaken_dropout(model: nn.Module) -> None:
    """Let no dropout layer drop more than a tenth."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = min(module.p, 0.1)


def frozen_share(model: nn.Module) -> float:
    """Return the share of a model's elements that are frozen."""
    total = sum(p.numel() for p in model.parameters())
    return sum(p.numel() for p in model.parameters() if not p.requires_grad) / max(1, total)


def _set(job: Job, **values: Any) -> None:
    for group in job.optimizer.param_groups:
        group.update({k: v for k, v in values.items() if k in group})


def usual_settings(job: Job) -> None:
    """Set what torch sets by default: betas, epsilon, and a momentum of 0.9 at the most."""
    defaults = {
        name: p.default
        for name, p in inspect.signature(type(job.optimizer).__init__).parameters.items()
        if p.default is not inspect.Parameter.empty
    }
    for group in job.optimizer.param_groups:
        for key in ("betas", "eps", "alpha", "nesterov", "dampening", "maximize"):
            if key in group and key in defaults:
                group[key] = defaults[key]
        if isinstance(group.get("momentum"), int | float):
            group["momentum"] = min(group["momentum"], 0.9)


def has_unusual_settings(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether betas, epsilon or momentum are far from what anybody uses."""
    for group in optimizer.param_groups:
        betas = group.get("betas", (0.9, 0.999))
        beta1, beta2 = float(betas[0]), float(betas[1])
        eps = group.get("eps", 1e-8)
        odd = (
            beta1 > 0.98
            or not 0.8 <= beta2 <= 0.99999
            or (isinstance(eps, int | float) and "betas" in group and not 1e-12 < eps <= 1e-4)
            or float(group.get("momentum") or 0.0) >= 0.98
            or bool(group.get("maximize"))
        )
        if odd:
            return True
    return False


@torch.no_grad()
def reinitialise(model: nn.Module) -> None:
    """Draw fresh weights: by trimtab's choice where it can tell, else by each module's own."""
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        if callable(reset):
            reset()
    try:
        init.auto_(model)
    except Exception:  # noqa: BLE001 # a model that cannot be traced keeps the modules' own
        return


def has_odd_inputs(pairs: Sequence[Any]) -> bool:
    """Tell whether inputs are far from mean 0 and standard deviation 1, or their features differ.

    Args:
        pairs: Inputs and targets; only inputs of floating point count.
    """
    first = [tensors_in(x)[0] for x, _ in pairs[:NUM_PROBED] if tensors_in(x)]
    floats = [t.reshape(len(t), -1).float() for t in first if t.is_floating_point() and t.ndim > 1]
    if not floats or len(floats) != len(first) or len({t.shape[1] for t in floats}) > 1:
        return False
    rows = torch.cat(floats)
    rows = rows[rows.isfinite().all(dim=1)]
    if len(rows) < 2:
        return False
    spread = rows.std(dim=0)
    spread = spread[spread > 0]
    apart = len(spread) > 1 and float(spread.quantile(0.9) / spread.quantile(0.1)) > ODD_SCALE
    return apart or float(rows.abs().mean()) > ODD_SCALE / 2 or float(rows.std()) < 1 / ODD_SCALE


def standardiser(pairs: Sequence[Any]) -> Callable[[Any], Any]:
    """Return what brings the first input tensor to mean 0 and spread 1 for each feature."""
    first = [tensors_in(x)[0] for x, _ in pairs if tensors_in(x)]
    floats = [t for t in first if t.is_floating_point() and t.ndim >= 1]
    if not floats or len(floats) != len(first):
        return lambda x: x
    same = all(t.shape[1:] == floats[0].shape[1:] for t in floats)
    rows = torch.cat([t.reshape(len(t), -1) for t in floats]) if same else None
    whole = torch.cat([t.flatten() for t in floats])
    per_feature = rows is not None and rows.shape[1] <= 4096 and len(rows) >= 16
    mean = rows.nanmean(dim=0) if per_feature and rows is not None else whole.nanmean()
    spread = rows.std(dim=0) if per_feature and rows is not None else whole.std()
    floor = 1e-3 * float(whole.std().nan_to_num(1.0)) + 1e-12

    def change(x: Any) -> Any:
        if isinstance(x, Tensor):
            flat = x.reshape(len(x), -1) if per_feature else x
            return ((flat - mean) / spread.clamp(min=floor)).reshape(x.shape)
        if isinstance(x, Mapping):
            keys = list(x)
            return {k: change(v) if k == keys[0] else v for k, v in x.items()}
        if isinstance(x, tuple | list) and x:
            return (change(x[0]), *x[1:])
        return x

    return change
