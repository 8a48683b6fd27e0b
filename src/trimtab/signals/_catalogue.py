"""Every signal by name: what it is, in which unit, how it is had and what that costs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Family = Literal["step", "parameter", "module", "histogram"]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A number that is measured; `subject.quantity`."""

    name: str
    family: Family
    """What it is measured of, and so the table it stands in."""
    unit: str
    meaning: str
    cost: str
    """Where it comes from: `"free"` (known anyway), `"sampled"` or `"exact"` (a pass over it)."""


def _signals(family: Family, *rows: tuple[str, str, str, str]) -> list[Signal]:
    return [
        Signal(name=name, family=family, unit=unit, cost=cost, meaning=meaning)
        for name, unit, cost, meaning in rows
    ]


SIGNALS: Final = (
    *_signals(
        "step",
        ("loss", "loss", "free", "mean training loss of the step; NaN if it was not given"),
        ("gradient.norm", "gradient", "free", "joint L2 norm before clipping, after unscaling"),
        ("gradient.clip_coefficient", "1", "free", "factor of the clipping; 1 means untouched"),
        ("gradient.clip_threshold", "gradient", "free", "largest norm allowed; NaN without one"),
        ("gradient.noise_scale", "steps", "sampled", "tr(cov) / |mean|^2 of the step's gradient: "
         "far above 1, a larger batch would help"),
        ("learning_rate", "1", "free", "of the first param group"),
        ("loss_scale", "1", "free", "what the loss was multiplied by in fp16"),
        ("step.skipped", "0 or 1", "free", "1 if nothing was updated: a value was not finite, or "
         "the guard left an outlier out"),
        ("step.flagged", "0 or 1", "free", "1 if the guard took the step for an outlier"),
        ("step.seconds", "s", "free", "from the end of the step before to the end of this one"),
        ("weight.norm", "weight", "sampled", "joint L2 norm of all parameters"),
        ("input.mean", "input", "sampled", "mean of the batch, the first tensor that the model is "
         "called with; NaN for integers"),
        ("input.std", "input", "sampled", "its standard deviation; 0 for a constant batch"),
        ("input.max", "input", "sampled", "its largest magnitude"),
        ("input.nonfinite_fraction", "1", "sampled", "share of it that is NaN or infinite"),
        ("input.fingerprint", "1", "sampled", "a number of 48 bits, equal for batches that are "
         "equal bit for bit where they are sampled"),
        ("output.log_z", "nat", "sampled", "mean log of the sum of the exponentials of the model's "
         "outputs: that of the partition function if they are logits"),
        ("replicas.parameter_difference", "1", "exact", "largest relative difference of a "
         "parameter between ranks, estimated from checksums; NaN where nothing was compared"),
        ("replicas.buffer_difference", "1", "exact", "the same of buffers"),
        ("memory.bytes", "byte", "free", "largest allocation so far, or the process's largest "
         "resident set on a CPU"),
    ),
    *_signals(
        "parameter",
        ("gradient.norm", "gradient", "free", "L2 norm before clipping, after unscaling"),
        ("gradient.rms", "gradient", "free", "root of the mean square"),
        ("gradient.zero_fraction", "1", "sampled", "share of elements that are exactly zero"),
        ("gradient.nonfinite_fraction", "1", "sampled", "share that is NaN or infinite; the norm "
         "tells exactly whether there is one"),
        ("weight.norm", "weight", "sampled", "L2 norm before the update"),
        ("update.ratio", "1", "sampled", "RMS of the update over RMS of the weights before it; "
         "about 1e-3 in health"),
        ("update.unchanged_fraction", "1", "sampled", "share of the elements with a gradient that "
         "the step left as they were; NaN if it was skipped"),
        ("adam.rms_ratio", "1", "sampled", "sqrt(mean(g^2 / v)): about 1, and above 2.3 when the "
         "second moments are out of date"),
    ),
    *_signals(
        "module",
        ("activation.mean", "activation", "sampled", "mean of the output"),
        ("activation.rms", "activation", "sampled", "root of the mean square of the output"),
        ("activation.max", "activation", "sampled", "largest magnitude"),
        ("activation.zero_fraction", "1", "sampled", "share of outputs that are exactly zero"),
        ("activation.nonfinite_fraction", "1", "sampled", "share that is NaN or infinite"),
        ("activation.saturation", "1", "sampled", "share within 1 % of a bound of tanh, sigmoid "
         "and the like; NaN for other modules"),
        ("activation.kurtosis", "1", "sampled", "fourth standardised moment: 3 for a normal "
         "distribution, far more with outliers"),
        ("activation.variation", "1", "sampled", "root of the units' mean variance over 64 rows of "
         "the batch, as a share of the RMS; 0 if the output is the same for every input"),
        ("activation.rank", "directions", "sampled", "participation ratio of these rows about "
         "their mean: in how many directions they vary, at most 63"),
        ("activation.drift_mean", "standard deviations", "sampled", "distance of the mean from its "
         "moving reference"),
        ("activation.drift_scale", "log2", "sampled", "log2 of the RMS over its moving reference"),
        ("activation.dead_fraction", "1", "exact", "share of units that were zero on every sampled "
         "row over a window; NaN for modules whose outputs are hardly ever zero"),
        ("attention.logit_max", "1", "sampled", "largest attention logit, scaled, before softmax"),
        ("attention.entropy", "nat", "sampled", "mean entropy of the attention weights"),
    ),
    *_signals(
        "histogram",
        ("count", "elements", "sampled", "sampled elements of outputs, gradients or weights in "
         "each bin of a symmetric logarithmic scale"),
    ),
)  # fmt: skip
"""All signals, in the order of the tables' columns."""


def names(family: Family) -> tuple[str, ...]:
    """Return the names of a family's signals, in the order of its columns."""
    return tuple(signal.name for signal in SIGNALS if signal.family == family)


def signal_table(signals: Iterable[Signal] = SIGNALS) -> str:
    """Return a Markdown table of signals, for the documentation."""
    lines = ["| family | signal | unit | cost | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {s.family} | `{s.name}` | {s.unit} | {s.cost} | {s.meaning} |" for s in signals]
    return "\n".join(lines) + "\n"
