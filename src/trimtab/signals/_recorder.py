"""The recorder: decides what is measured in which step, and brings the numbers to the host."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.optim import GradNorms
from trimtab.signals._ends import Ends, join_fingerprint
from trimtab.signals._gauges import ACTIVATION_COLUMNS, Drift, activation_gauges
from trimtab.signals._histogram import histograms
from trimtab.signals._last_forward import LastForward
from trimtab.signals._locate import NonfiniteSource
from trimtab.signals._memory import memory_bytes
from trimtab.signals._parameters import PARAMETER_NAMES, WEIGHT_NORM, Parameters
from trimtab.signals._readback import Readback
from trimtab.signals._record import StepRecord
from trimtab.signals._replica_watch import ReplicaWatch, no_comparison
from trimtab.signals._sample import SAMPLE_SIZE
from trimtab.signals._taps import Taps, compiled_modules, site_name, watched_modules
from trimtab.signals._unit_rows import ROW_COLUMNS
from trimtab.signals._watch import Watch

MAX_SAMPLED: Final = 2**19
"""Sampled elements of all parameters, or of all modules, together: beyond 512 of them each gets a
smaller sample, so that memory and time stay bounded."""
MIN_SAMPLE: Final = 64

OFTEN_ZERO: Final = 0.05
"""Zero fraction from which on the units of a module are watched: below it none can be dead."""

Sink = Callable[[StepRecord], None]


@dataclass
class _Pending:
    """A step whose numbers are on their way."""

    step: int
    part: Parameters
    values: dict[str, float]
    names: list[str]
    tables: dict[str, tuple[Sequence[str], tuple[str, ...]]]
    readback: Readback


class Recorder:
    """Measures a model around its optimizer steps.

    The owner calls `before_update` when gradients are final, and `after_update` when the optimizer
    is done. On an accelerator a step's numbers arrive during the next one.

    Of several optimizers each one's steps count for the cadence of its own parameters. Modules are
    measured with the steps of the first.

    Args:
        model: Whose modules are tapped.
        params: All parameters that steps may change; a sequence for each optimizer.
        watch: What is measured how often.
    """

    def __init__(self, model: nn.Module, *params: Sequence[nn.Parameter], watch: Watch) -> None:
        self._model = model
        self.watch: Final = watch
        self.step = 0
        """Steps of all optimizers so far, skipped ones among them."""
        self.sinks: list[Sink] = []
        self.on_nonfinite: list[Callable[[int, NonfiniteSource], None]] = []
        """Called with step and place when a value that is not finite was traced to its source."""
        every = [p for part in params for p in part]
        self.device = next((p.device for p in every), torch.device("cpu"))
        self.at_once = self.device.type == "cpu"
        """Whether a step's numbers are delivered in it, because reading them waits for nothing."""
        self._names = _parameter_names(model, every)
        size = _sample_size(len(every))
        self._parts = [
            Parameters(self._watched(part), self._names, size=size, device=self.device)
            for part in params
        ]
        modules = watched_modules(model, watch.keeps) if watch.modules else {}
        self.taps: Final = Taps(model, modules, size=_sample_size(len(modules)), device=self.device)
        self.drift: Final = Drift(len(modules), self.device)
        self._ends = Ends(model, self.taps) if watch.modules else None
        self.last_forward: Final = LastForward(model)
        self._replicas = ReplicaWatch(model, every=watch.parameters * watch.replicas)
        self._burst_left = 0
        self._pending: _Pending | None = None
        self._ended = time.perf_counter()
        self._taking = False
        self._blind_checked = False
        self.taps.arm(self._is_due(self._parts[0], watch.modules))

    def _watched(self, params: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Return those that are measured, in the order of the model."""
        order = {id(p): i for i, p in enumerate(self._model.parameters())}
        keep = [p for p in params if self.watch.parameters and self._keeps(p)]
        return sorted(keep, key=lambda p: order.get(id(p), len(order)))  # stable: as it came

    def _keeps(self, param: nn.Parameter) -> bool:
        return self.watch.keeps(self._names[id(param)])

    @property
    def order(self) -> list[str]:
        """Names of the watched modules in the order of the forward pass; empty before a record."""
        return self.taps.order

    @property
    def sites(self) -> dict[str, list[str]]:
        """Names of the rows of each table."""
        return {
            "parameters": [site for part in self._parts for site in part.sites],
            "modules": list(self.taps.names),
        }

    def add_params(self, params: Sequence[nn.Parameter], which: int = 0) -> None:
        """Measure further parameters of an optimizer; those known already stay as they are."""
        new = [p for p in params if id(p) not in self._names]
        self._names |= _parameter_names(self._model, new, num_known=len(self._names))
        self._parts[which].grow(self._watched(new), self._names)

    def move_to(self, device: torch.device) -> None:
        """Keep samples on the device that the model has been moved to."""
        self.device, self.at_once = device, device.type == "cpu"
        for part in self._parts:
            part.probe.move_to(device)
        self.taps.move_to(device)
        self.drift.reference = self.drift.reference.to(device)

    def _is_due(self, part: Parameters, every: int, *, burst: bool = True) -> bool:
        """Tell whether the next step is recorded: the first one, every so many, and in a burst."""
        number = part.steps + 1
        due = number == 1 or (burst and self._burst_left > 0)
        return every > 0 and (due or number % every == 0)

    def before_update(self, which: int = 0) -> None:
        """Look at gradients and weights, if this step is due.

        Args:
            which: The optimizer's number, in the order that its parameters were given in.
        """
        part = self._parts[which]
        self._taking = self._is_due(part, self.watch.parameters)
        if self._taking:
            part.probe.before()

    def locate_nonfinite(self, *, loss: float | None, scaled: bool) -> None:
        """Run the step's last forward pass again, and tell listeners what came first.

        For the owner to call before the update, when it knows that the step is not finite and
        gradients and weights are still those that made it so.

        Args:
            loss: Of the step; None if it is not known.
            scaled: Whether the loss was scaled, so that gradients may overflow in health.
        """
        armed, self.taps.armed = self.taps.armed, False
        params = [(self._names.get(id(p), n), p) for n, p in self._model.named_parameters()]
        try:
            source = self.last_forward.locate(params, self.order, loss=loss, scaled=scaled)
        finally:
            self.taps.armed = armed
        if source is not None:
            for listener in self.on_nonfinite:
                listener(self.step + 1, source)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """See nothing of what is done inside: steps that are made again are no steps of the run."""
        armed, self.taps.armed = self.taps.armed, False
        keeps, self.last_forward.keeps = self.last_forward.keeps, False
        try:
            yield
        finally:
            self.taps.armed, self.last_forward.keeps = armed, keeps

    @torch.no_grad()
    def after_update(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        params: Sequence[nn.Parameter],
        norms: GradNorms,
        divisor: Tensor | float,
        values: Mapping[str, Tensor | float],
        which: int = 0,
    ) -> None:
        """Measure what a step did, and send the numbers on their way.

        Args:
            optimizer: That made the step.
            params: Its parameters with a gradient.
            norms: Of their gradients, before clipping and after unscaling.
            divisor: What the gradients were multiplied by in `before_update`.
            values: Signals of the whole step, the clip coefficient among them; tensors are 0-d.
            which: As for `before_update`.
        """
        self._burst_left = max(0, self._burst_left - 1)
        self.sync()
        part = self._parts[which]
        scalars = {k: float(v) for k, v in values.items() if not isinstance(v, Tensor)}
        tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
        tensors["gradient.norm"] = norms.total
        tables: dict[str, tuple[Sequence[str], tuple[str, ...]]] = {}
        matrices: list[Tensor] = []
        if self._taking:
            coefficient = values["gradient.clip_coefficient"]
            skipped = values.get("step.skipped", 0.0)
            gauges = part.measure(optimizer, params, norms, divisor, coefficient, skipped)
            tables["parameters"] = part.sites, PARAMETER_NAMES
            matrices.append(gauges)
            tensors["_square"], tensors["_cross"] = part.probe.products(divisor).unbind()
            tensors["weight.norm"] = gauges[:, WEIGHT_NORM].nan_to_num(0).norm()
            scalars["memory.bytes"] = memory_bytes(self.device)
            scalars |= no_comparison()
        if which == 0:
            tensors |= self._replicas.after_step(part.steps + 1)
        if which == 0 and self.taps.armed and self._ends is not None:
            tensors |= self._ends.gauges(self.device)
        with_modules = which == 0 and self.taps.armed and bool(self.taps.names)
        if with_modules:
            tables["modules"] = self.taps.names, _MODULE_NAMES
            matrices.append(self._module_gauges())
        if self._is_due(part, self.watch.histograms, burst=False):
            sites, counts = self._histograms(part, divisor, with_modules=with_modules)
            if sites:
                tables["histograms"] = sites, ("count",)
                matrices.append(counts)
        self.last_forward.drop()
        now = time.perf_counter()
        scalars["step.seconds"], self._ended = now - self._ended, now
        readback = Readback([*tensors.values(), *matrices])
        self.step += 1
        part.steps += 1
        self._pending = _Pending(self.step, part, scalars, list(tensors), tables, readback)
        try:
            if self.at_once:
                self.sync()
        finally:  # a sink may end the run
            if which == 0:
                self.taps.arm(self._is_due(part, self.watch.modules))

    def _module_gauges(self) -> Tensor:
        """Return `(num_modules, len(_MODULE_NAMES))`."""
        gauges = activation_gauges(self.taps.samples, self.taps.bounds)
        drift = self.drift.measure(gauges[:, 0], gauges[:, 1])
        dead = self.taps.dead_fractions()
        rows = self.taps.row_gauges()
        return torch.cat([gauges, rows, drift, dead[:, None], self.taps.attention()], dim=1)

    def _histograms(
        self, part: Parameters, divisor: Tensor | float, *, with_modules: bool
    ) -> tuple[list[str], Tensor]:
        """Return sites and counts, `(num_sites, num_bins)`."""
        sites: list[str] = []
        matrices: list[Tensor] = []
        if with_modules:
            sites += [f"activation/{name}" for name in self.taps.names]
            matrices.append(self.taps.samples)
        if self._taking:
            sites += [f"gradient/{n}" for n in part.sites] + [f"weight/{n}" for n in part.sites]
            matrices += [part.probe.gradients(divisor), part.probe.weights()]
        counts = [histograms(matrix) for matrix in matrices]
        return sites, torch.cat(counts) if counts else torch.zeros(0)

    def sync(self) -> None:
        """Deliver the last step's numbers, waiting for the device if they are not there yet."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        arrays = pending.readback.arrays()
        values = pending.values | {n: float(a) for n, a in zip(pending.names, arrays, strict=False)}
        join_fingerprint(values)
        square, cross = values.pop("_square", math.nan), values.pop("_cross", math.nan)
        noise_scale = pending.part.estimate_noise(square, cross)
        if noise_scale is not None:
            values["gradient.noise_scale"] = noise_scale
        record = StepRecord(pending.step, values)
        rest = arrays[len(pending.names) :]
        for (table, (sites, names)), matrix in zip(pending.tables.items(), rest, strict=True):
            columns = (
                {"count": matrix}
                if table == "histograms"
                else dict(zip(names, matrix.T, strict=True))
            )
            record.tables[table] = (sites, columns)
        self._look_for_zeros(record)
        self._look_for_blindness(record)
        if pending.part.is_unusual(values["gradient.norm"]):
            self._burst_left = max(self._burst_left, self.watch.burst)
        for sink in self.sinks:
            sink(record)

    def _look_for_zeros(self, record: StepRecord) -> None:
        if "modules" in record.tables:
            zeros = record.tables["modules"][1]["activation.zero_fraction"]
            self.taps.units.watch(np.flatnonzero(zeros > OFTEN_ZERO).tolist())

    def _look_for_blindness(self, record: StepRecord) -> None:
        """Warn if nothing was seen in a compiled module: its code may be older than the taps."""
        if self._blind_checked or "modules" not in record.tables:
            return
        self._blind_checked = True
        sites, columns = record.tables["modules"]
        seen = np.isfinite(columns["activation.rms"])
        for prefix in compiled_modules(self._model):
            own = prefix.strip(".") or "model"  # whose hooks run outside of the compiled code
            inside = [i for i, s in enumerate(sites) if s.startswith(prefix) and s != own]
            if inside and not seen[inside].any():
                warnings.warn(
                    f"Nothing was seen of the {len(inside)} modules in {own}, which is compiled. "
                    "torch.compile does not look at hooks that are added after a model's first "
                    "call: attach before that call, or call torch.compiler.reset() after "
                    "attaching. Gradients and updates are measured all the same.",
                    UserWarning,
                    stacklevel=2,
                )
                return

    def close(self) -> None:
        """Deliver what is on its way and take all hooks off."""
        try:
            self.sync()
        finally:
            self.taps.remove()
            self.last_forward.remove()
            self._replicas.close()
            if self._ends is not None:
                self._ends.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return what later measurements depend on."""
        self.sync()
        return {
            "step": self.step,
            "drift": self.drift.reference.clone(),
            "units": self.taps.units.state_dict(),
            "parts": [part.state_dict() for part in self._parts],
            "burst_left": self._burst_left,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; references of other modules are left out."""
        self.step, self._burst_left = state["step"], state["burst_left"]
        if state["drift"].shape == self.drift.reference.shape:
            self.drift.reference = state["drift"].to(self.device).clone()
            self.taps.units.load_state_dict(state["units"])
        for part, saved in zip(self._parts, state["parts"], strict=False):
            part.load_state_dict(saved)
        self.taps.arm(self._is_due(self._parts[0], self.watch.modules))


_MODULE_NAMES: Final = (
    *ACTIVATION_COLUMNS,
    *ROW_COLUMNS,
    "activation.drift_mean",
    "activation.drift_scale",
    "activation.dead_fraction",
    "attention.logit_max",
    "attention.entropy",
)


def _sample_size(num: int) -> int:
    return max(MIN_SAMPLE, min(SAMPLE_SIZE, MAX_SAMPLED // max(1, num)))


def _parameter_names(
    model: nn.Module, params: Sequence[nn.Parameter], num_known: int = 0
) -> dict[int, str]:
    """Return the plain name of each parameter, by identity; a shared one has its first."""
    known = {id(p): site_name(name) for name, p in model.named_parameters()}
    return {id(p): known.get(id(p), f"parameter.{num_known + i}") for i, p in enumerate(params)}
