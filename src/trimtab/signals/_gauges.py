"""Statistics of many samples at once: one row a tensor, a handful of operations for all of them."""

import math
from typing import Final

import torch
from torch import Tensor

ABSENT: Final = -3.0e38
"""Fills the places of a row that no element was sampled for; no healthy value is near it."""

CHUNK: Final = 32
"""Rows handled at once on a CPU: below 2^15 elements PyTorch starts no threads, whose start takes
longer than the work, and on a busy machine a hundred times longer."""

BOUND_MARGIN: Final = 0.01
"""Share of a bounded activation's range that counts as saturated, at each end."""

ACTIVATION_COLUMNS: Final = (
    "activation.mean",
    "activation.rms",
    "activation.max",
    "activation.zero_fraction",
    "activation.nonfinite_fraction",
    "activation.saturation",
    "activation.kurtosis",
)


def chunks(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return views of some rows each; all rows together on an accelerator."""
    return (matrix,) if matrix.device.type != "cpu" else torch.split(matrix, CHUNK - 1)


def activation_gauges(samples: Tensor, bounds: Tensor) -> Tensor:
    """Measure sampled outputs of modules.

    Elements that are not finite are counted, and left out of everything else.

    Args:
        samples: `(num_modules, size)`, float32, `ABSENT` where there is none.
        bounds: Lower and upper bound of each module's output, `(num_modules, 2)`, NaN without any.

    Returns:
        `(num_modules, len(ACTIVATION_COLUMNS))`; NaN for a module without a sample.
    """
    parts = zip(chunks(samples), chunks(bounds), strict=True)
    return torch.cat([_activation_gauges(x, b) for x, b in parts])


def _activation_gauges(x: Tensor, bounds: Tensor) -> Tensor:
    present = x != ABSENT
    finite = x.isfinite() & present
    count = finite.sum(dim=1, dtype=torch.float32)  # (num_modules,)
    total = present.sum(dim=1, dtype=torch.float32)
    x = torch.where(finite, x, 0)
    mean = x.sum(dim=1) / count
    square = x.square().sum(dim=1) / count
    largest = torch.linalg.vector_norm(x, math.inf, dim=1)
    nonzero = x.count_nonzero(dim=1)
    lower, upper = bounds[:, :1], bounds[:, 1:]
    margin = BOUND_MARGIN * (upper - lower)
    at_bound = ((x <= lower + margin) | (x >= upper - margin)) & finite
    saturation = at_bound.sum(dim=1) / count + 0 * lower[:, 0]  # NaN without bounds
    centred = torch.where(finite, x - mean[:, None], 0)
    variance = centred.square().sum(dim=1) / count
    scaled = centred / variance.sqrt()[:, None]  # before the fourth power, which would overflow
    kurtosis = scaled.square().square().sum(dim=1) / count
    seen = torch.where(total > 0, 0, math.nan)
    columns = [
        mean,
        square.sqrt(),
        largest,
        1 - nonzero / count,
        1 - count / total,
        saturation,
        kurtosis,
    ]
    return torch.stack(columns, dim=1) + seen[:, None]


class Drift:
    """Distance of each module's mean and scale from a slowly moving reference.

    Args:
        num_modules: Rows.
        device: Where the gauges are.
        decay: Of the reference, for each record.
        warmup: Records before the first distance is given.
    """

    def __init__(
        self, num_modules: int, device: torch.device, *, decay: float = 0.95, warmup: int = 5
    ) -> None:
        self.decay, self.warmup = decay, warmup
        # Number of records, mean, log2 of the RMS.
        self.reference = torch.zeros(3, num_modules, device=device)

    def measure(self, mean: Tensor, rms: Tensor) -> Tensor:
        """Compare one record with the reference, then let the reference follow.

        Args:
            mean: `(num_modules,)`; NaN where the module was not called.
            rms: `(num_modules,)`.

        Returns:
            `(num_modules, 2)`: distance of the mean in units of the reference RMS, and log2 of the
            RMS over the reference; NaN while the reference is young.
        """
        count, old_mean, old_scale = self.reference.unbind()
        scale = rms.log2()
        away = torch.stack([(mean - old_mean) / old_scale.exp2(), scale - old_scale], dim=1)
        away = torch.where((count >= self.warmup)[:, None], away, math.nan)
        rate = (1 / (count + 1)).clamp(min=1 - self.decay)
        moved = torch.stack(
            [count + 1, old_mean + rate * (mean - old_mean), old_scale + rate * (scale - old_scale)]
        )
        known = mean.isfinite() & scale.isfinite()
        self.reference = torch.where(known, moved, self.reference)
        return away


PARAMETER_COLUMNS: Final = (
    "gradient.zero_fraction",
    "gradient.nonfinite_fraction",
    "weight.norm",
    "update.ratio",
    "update.unchanged_fraction",
    "adam.rms_ratio",
)


def parameter_gauges(
    grads: Tensor, before: Tensor, after: Tensor, moments: Tensor, sizes: Tensor
) -> Tensor:
    """Measure sampled gradients, weights and updates of parameters.

    Args:
        grads: `(num_params, size)`, float32, after unscaling; `ABSENT` where there is none.
        before: Weights before the update, likewise.
        after: Weights after it.
        moments: Adam's unbiased second moments; all `ABSENT` for other optimizers.
        sizes: Elements of each parameter, `(num_params,)`.

    Returns:
        `(num_params, len(PARAMETER_COLUMNS))`.
    """
    matrices = (grads, before, after, moments, sizes[:, None])
    return torch.cat(
        [_parameter_gauges(*part) for part in zip(*map(chunks, matrices), strict=True)]
    )


def _parameter_gauges(
    grads: Tensor, before: Tensor, after: Tensor, moments: Tensor, sizes: Tensor
) -> Tensor:
    has_grad, has_weight = grads != ABSENT, before != ABSENT
    num_grads = has_grad.sum(dim=1)
    finite = grads.isfinite() & has_grad
    zeros = ((grads == 0) & has_grad).sum(dim=1) / num_grads
    nonfinite = 1 - finite.sum(dim=1) / num_grads
    num_weights = has_weight.sum(dim=1)
    weights = torch.where(has_weight, before, 0)
    weight_rms = (weights.square().sum(dim=1) / num_weights).sqrt()
    change = torch.where(has_weight, after - before, 0)
    update_rms = (change.square().sum(dim=1) / num_weights).sqrt()
    pushed = finite & (grads != 0) & has_weight
    unchanged = (pushed & (change == 0)).sum(dim=1) / pushed.sum(dim=1)
    has_moment = (moments != ABSENT) & finite
    ratio = torch.where(has_moment, grads.square() / moments.clamp(min=1e-30), 0)
    adam = (ratio.sum(dim=1) / has_moment.sum(dim=1)).sqrt()
    norm = weight_rms * sizes[:, 0].sqrt()
    columns = [zeros, nonfinite, norm, update_rms / weight_rms, unchanged, adam]
    return torch.stack(columns, dim=1)
