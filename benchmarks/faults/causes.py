"""Which names of findings, and which words, say that a cause was recognised.

A case names causes by a key of this table, so that a rule's name is written in one place.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Cause:
    """One cause that a fault can be blamed on."""

    names: tuple[str, ...]
    """Names of findings that mean it."""
    words: str
    """What a message that explains it has to contain: a pattern, in any case."""


CAUSES: Final[dict[str, Cause]] = {
    "attention-logits": Cause(
        ("attention-logit-growth", "attention-entropy-collapse"), r"attention"
    ),
    "batchnorm-momentum": Cause(("batchnorm-momentum",), r"momentum|running"),
    "batchnorm-tiny-batch": Cause(
        ("batchnorm-batch-of-one", "batchnorm-tiny-batch"),
        r"batch ?norm",
    ),
    "betas-out-of-range": Cause(
        ("unusual-optimizer-settings", "stale-second-moments"),
        r"beta|moment|alpha",
    ),
    "bf16-updates-lost": Cause(("updates-round-away",), r"bf16|bfloat16|round"),
    "clip-always-active": Cause(("clipped-every-step", "clipped-to-nothing"), r"clip"),
    "clip-before-unscale": Cause(
        ("clip-before-unscale", "scaled-gradients-clipped"), r"unscale|scaled"
    ),
    "constant-labels": Cause(("constant-labels",), r"label|target"),
    "constant-output": Cause(("output-loss-mismatch", "rank-collapse"), r"output"),
    "cut-loss": Cause(
        ("cut-loss", "loss-not-connected"), r"detach|item|graph|connected|no gradient"
    ),
    "data-shift": Cause(("input-shift", "odd-batch"), r"input|batch|data"),
    "decay-on-norms": Cause(("decay-on-norms", "decay-on-all-parameters"), r"decay"),
    "decay-too-strong": Cause(("decay-too-strong", "decay-on-norms"), r"decay"),
    "dead-units": Cause(("dead-units",), r"dead|zero|silent|negative"),
    "discriminator-too-strong": Cause(("vanishing-gradient",), r"discriminator|gradient"),
    "diverging-targets": Cause(("divergence",), r"target|diverge|grow|loss"),
    "dropout-too-strong": Cause(("dropout-too-strong",), r"dropout"),
    "epsilon-too-large": Cause(
        ("gradient-near-epsilon", "unusual-optimizer-settings"), r"\beps|epsilon|ε"
    ),
    "epsilon-too-small": Cause(("unusual-optimizer-settings", "nonfinite-loss"), r"eps|fp16|half"),
    "exploding-gradient": Cause(
        ("exploding-gradient", "growing-activations"), r"gradient|activation|explod"
    ),
    "fp16-overflow": Cause(
        ("loss-scale-collapse", "nonfinite-activation", "nonfinite-gradient", "nonfinite-loss"),
        r"fp16|float16|overflow|scale|infinite",
    ),
    "fp16-underflow": Cause(
        ("fp16-without-scaler", "backward-not-scaled", "unscaled-backward"), r"scal|underflow|fp16"
    ),
    "fp16-without-scaler": Cause(
        ("fp16-without-scaler", "backward-not-scaled", "unscaled-backward"), r"scal|fp16"
    ),
    "frozen-parameters": Cause(
        ("partly-frozen", "mostly-frozen", "nothing-to-train"), r"froz|requires_grad"
    ),
    "gradient-ascent": Cause(
        ("loss-negated", "gradient-ascent", "unusual-optimizer-settings"), r"sign|ascent|maximi"
    ),
    "gradients-cleared": Cause(
        ("gradients-cleared-too-early", "gradients-cleared-before-step"), r"zero_grad|clear"
    ),
    "hidden-parameters": Cause(
        ("hidden-parameters", "parameters-without-optimizer"),
        r"list|ModuleList|regist|optimizer",
    ),
    "identical-units": Cause(
        ("identical-units", "rank-collapse"), r"identical|equal|same|symmetr|init"
    ),
    "initial-loss": Cause(("initial-loss",), r"initial|init|first loss|at the start|begin"),
    "inputs-not-normalised": Cause(("inputs-not-normalised",), r"normalis|standardis|scale|range"),
    "labels-out-of-range": Cause(("labels-out-of-range",), r"label|target"),
    "labels-unrelated": Cause(("labels-unrelated",), r"label|target|unrelated|align"),
    "leak-across-examples": Cause(("leak-across-examples",), r"example|batch"),
    "leak-from-future": Cause(("leak-from-future",), r"future|causal|mask"),
    "learning-rate-jump": Cause(("learning-rate-jump",), r"learning rate"),
    "learning-rate-too-high": Cause(
        (
            "learning-rate-too-high",
            "learning-rate-above-limit",
            "update-too-large",
            "edge-of-stability",
        ),
        r"learning rate",
    ),
    "learning-rate-too-low": Cause(("learning-rate-too-low", "update-too-small"), r"learning rate"),
    "loss-scale-collapse": Cause(("loss-scale-collapse",), r"loss scale|overflow"),
    "loss-spike": Cause(("loss-spike", "odd-batch"), r"spike|batch"),
    "missing-sigmoid": Cause(("missing-sigmoid", "output-loss-mismatch"), r"sigmoid|logit"),
    "missing-zero-grad": Cause(
        ("gradients-not-cleared", "missing-zero-grad", "accumulating-gradients"), r"zero_grad"
    ),
    "momentum-too-high": Cause(("unusual-optimizer-settings",), r"momentum"),
    "no-gradient": Cause(
        (
            "no-backward",
            "loss-not-connected",
            "missing-gradient",
            "zero-gradient",
            "cut-loss",
            "unreached-parameters",
            "gradients-cleared-too-early",
        ),
        r"gradient|backward|graph|detach",
    ),
    "no-nonlinearity": Cause(
        ("no-nonlinearity", "linear-network", "missing-activation"),
        r"linear|activation function|non-?linear",
    ),
    "no-step": Cause(("no-step", "backward-without-step", "nothing-moves"), r"step"),
    "no-warmup": Cause(("no-warmup",), r"warm-?up"),
    "nonfinite": Cause(
        (
            "unsafe-operation",
            "nonfinite-loss",
            "nonfinite-activation",
            "nonfinite-gradient",
            "nonfinite-input",
        ),
        r"NaN|infinite|finite|log|zero",
    ),
    "nonfinite-batch": Cause(
        ("nonfinite-batch", "nonfinite-input"), r"NaN|infinite|finite|input|batch"
    ),
    "nonfinite-targets": Cause(
        ("nonfinite-batch", "nonfinite-loss", "unsafe-operation"), r"target|label|loss"
    ),
    "nothing-trains": Cause(
        ("nothing-to-train", "partly-frozen", "mostly-frozen", "nothing-moves"), r"train|froz|grad"
    ),
    "output-loss-mismatch": Cause(
        (
            "output-loss-mismatch",
            "softmax-before-cross-entropy",
            "sigmoid-before-bce-with-logits",
            "missing-log-softmax",
        ),
        r"softmax|sigmoid|logit|relu|output|activation",
    ),
    "parameters-without-optimizer": Cause(
        ("parameters-without-optimizer", "nothing-moves"), r"optimizer"
    ),
    "broadcasting-loss": Cause(("broadcasting-loss",), r"broadcast|shape"),
    "repeated-batch": Cause(("repeated-batches", "constant-input"), r"same batch|repeat"),
    "saturated-units": Cause(("saturated-units",), r"saturat"),
    "schedule-ends-early": Cause(
        ("schedule-exhausted", "schedule-cadence"), r"schedul|learning rate"
    ),
    "schedule-not-stepped": Cause(
        ("scheduler-never-stepped", "learning-rate-too-low"), r"schedul|learning rate"
    ),
    "scheduler-before-optimizer": Cause(
        ("scheduler-out-of-order", "scheduler-before-optimizer"), r"schedul"
    ),
    "stale-parameters": Cause(("stale-parameters", "parameters-without-optimizer"), r"optimizer"),
    "step-without-backward": Cause(("no-backward", "step-without-backward"), r"backward"),
    "summed-loss": Cause(("summed-loss", "learning-rate-too-high"), r"sum|mean|learning rate"),
    "targets-equal-inputs": Cause(("targets-equal-inputs", "leak-from-future"), r"target|shift"),
    "targets-not-scaled": Cause(("targets-not-scaled", "initial-loss"), r"target|scale|reward"),
    "unbounded-loss": Cause(("unbounded-loss", "divergence"), r"bound|grow|below|negative"),
    "undivided-accumulation": Cause(
        ("accumulation-not-divided", "undivided-accumulation"), r"accumul|divi"
    ),
    "unshuffled-data": Cause(
        ("unshuffled-data",),
        r"shuffl|order|sort",
    ),
    "unsuited-initialisation": Cause(
        ("unsuited-initialisation", "identical-units"), r"init|weight"
    ),
    "vanishing-gradient": Cause(("vanishing-gradient",), r"vanish|gradient"),
    "weights-grow": Cause(("weights-growing", "divergence"), r"weight|grow"),
    "wrong-mode": Cause(
        ("wrong-mode", "trained-in-eval-mode", "train-mode-not-restored"), r"eval|train\(\)|mode"
    ),
    "wrong-softmax-dim": Cause(
        ("leak-across-examples", "leak-from-future", "output-loss-mismatch"),
        r"dim|batch|example|softmax",
    ),
    "zero-learning-rate": Cause(
        ("zero-learning-rate", "schedule-exhausted", "nothing-moves"), r"learning rate"
    ),
}
