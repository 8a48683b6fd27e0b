"""The settings every recipe shares: how long a run is, where it goes, how it is optimised."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimtab.errors import ConfigError
from trimtab.precision import Precision


def require(valid: bool, name: str, expected: str, value: object) -> None:  # noqa: FBT001 # a check
    """Refuse a setting.

    Raises:
        ConfigError: `valid` is false.
    """
    if not valid:
        raise ConfigError(f"{name} must be {expected}, got {value}.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long the run is, where it goes and what it runs on."""

    steps: int = 300
    """Optimizer steps of the whole run."""
    seed: int = 0
    """Decides initialisation, data order and dropout; a CPU run repeats bit for bit."""
    out: Path | None = None
    """Run folder to make. Default: runs/RECIPE-DATE-TIME."""
    device: str = "auto"
    """Where to train: cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""
    precision: Literal["auto"] | Precision = "auto"
    """Dtype of the forward pass: fp32, bf16 or fp16; auto is bf16 on a GPU that has it."""
    threads: int = 0
    """CPU threads torch may use; 0 leaves its own choice."""
    eval_every: int = 50
    """Steps between two validations; 0 validates at the end only."""
    save_every: int = 100
    """Steps between two checkpoints; 0 saves at the end only. Ctrl-C always saves."""
    watch: int = 10
    """Steps between two records of every layer; 0 records none."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""
    guard: Literal["spike", "nonfinite", "olmo", "zclip", "observe", "none"] = "spike"
    """What keeps the run alive: the policy by which steps are left out as outliers. If they go on,
    the run is put back and the cause is looked for. observe only records what spike would do."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "at least 1", self.steps)
        require(0 <= self.seed < 2**63, "seed", "between 0 and 2^63 - 1", self.seed)
        for name in ("threads", "eval_every", "save_every", "watch"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        require(self.keep_checkpoints >= 1, "keep_checkpoints", "at least 1", self.keep_checkpoints)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, its schedule, and what keeps its steps in bounds."""

    lr: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """What follows the warm-up; wsd holds the peak and falls over the last fifth."""
    warmup: float = 0.1
    """Warm-up from 0 to the peak: steps if 1 or more, else a share of all steps."""
    min_lr_ratio: float = 0.1
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = 0.1
    """Decoupled decay of weight matrices; biases and norms have none."""
    beta1: float = 0.9
    """Decay of Adam's mean of gradients."""
    beta2: float = 0.95
    """Decay of Adam's mean of squared gradients."""
    eps: float = 1e-8
    """Added to Adam's denominator."""
    clip: float = 1.0
    """Largest joint L2 norm of the gradients; 0 only measures."""
    batch_size: int = 16
    """Sequences or examples in a micro-batch."""
    accumulate: int = 1
    """Micro-batches for each step."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, name, "positive and finite", value)
        for name in ("warmup", "weight_decay", "clip"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, name, "0 or more, and finite", value)
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, name, "at least 0 and below 1", value)
        require(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", "between 0 and 1", self.min_lr_ratio)
        for name in ("batch_size", "accumulate"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        whole = self.warmup < 1 or float(self.warmup).is_integer()
        require(whole, "warmup", "a share below 1 or a whole number of steps", self.warmup)

    def warmup_steps(self, total_steps: int) -> int:
        """Return the warm-up in steps.

        Raises:
            ConfigError: It is longer than the run.
        """
        if self.warmup < 1:
            return round(self.warmup * total_steps)
        if self.warmup > total_steps:
            raise ConfigError(
                f"warmup is {self.warmup:g} steps, but the run has {total_steps}: it would end "
                "before it reached its learning rate. Lower warmup, or give it as a share, such as "
                "0.1."
            )
        return int(self.warmup)
