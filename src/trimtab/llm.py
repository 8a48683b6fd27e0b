"""The configuration of a language-model run: settings that depend on each other, checked."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.losses import cross_entropy
from trimtab.nn import GPT, Attention
from trimtab.optim import Schedule, param_groups, warmup_cosine
from trimtab.precision import Precision, check_precision

__all__ = ["LLMConfig"]

FUSED_DEVICES: Final = frozenset({"cpu", "cuda"})
"""Where PyTorch has a fused AdamW for floating parameters."""

SYNONYMS: Final = {
    "adam_epsilon": "eps",
    "attention_probs_dropout_prob": "attention_dropout",
    "attn_pdrop": "attention_dropout",
    "block_size": "max_len",
    "d_ff": "ffn_size",
    "d_model": "hidden_size",
    "ffn_hidden_size": "ffn_size",
    "grad_clip": "clip",
    "gradient_accumulation_steps": "accumulation_steps",
    "hidden_dropout_prob": "dropout",
    "intermediate_size": "ffn_size",
    "learning_rate": "lr",
    "max_grad_norm": "clip",
    "max_iters": "total_steps",
    "max_position_embeddings": "max_len",
    "max_steps": "total_steps",
    "n_embd": "hidden_size",
    "n_head": "num_heads",
    "n_inner": "ffn_size",
    "n_layer": "num_layers",
    "n_positions": "max_len",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "per_device_train_batch_size": "micro_batch_size",
    "resid_pdrop": "dropout",
    "seq_length": "max_len",
    "sequence_length": "max_len",
    "world_size": "num_ranks",
}
"""What Transformers, Megatron and nanoGPT call our settings."""


@dataclass(frozen=True, kw_only=True)
class LLMConfig:
    """Model, optimizer, schedule and batch of a language-model run, checked against each other.

    The defaults are a model of GPT-2's smallest size. Nothing is built before you ask for it; every
    part is built from the same settings:

    >>> config = LLMConfig(hidden_size=64, num_layers=2, num_heads=4, ffn_size=256, max_len=32)
    >>> model = config.model()
    >>> optimizer = config.optimizer(model)
    >>> schedule = config.schedule(optimizer)
    >>> config.accumulation
    128

    then `Stepper(model, optimizer, schedule=schedule, **config.stepper_options())`.

    Raises:
        ConfigError: A setting is out of range, or two of them cannot work together.

    Source: Radford et al. 2019 (size, dropout); Brown et al. 2020, arXiv:2005.14165, appendix B
    (betas, decay, clipping); Chowdhery et al. 2022, arXiv:2204.02311, section 5 (z-loss).
    """

    hidden_size: int = 768
    """Width of the residual stream; also called d_model or n_embd. A multiple of `num_heads`."""
    num_layers: int = 12
    """Transformer blocks; also called depth or n_layer."""
    num_heads: int = 12
    """Attention heads of each block."""
    ffn_size: int = 3072
    """Width inside the feed-forward; also called d_ff or intermediate size."""
    vocab_size: int = 50257
    """Tokens in the vocabulary."""
    max_len: int = 1024
    """Tokens of one sequence; also called context or block size."""
    dropout: float = 0.1
    """Share of embeddings and of each branch's output dropped, in [0, 1). 0 if no text repeats."""
    attention_dropout: float = 0.1
    """Share of attention weights dropped, in [0, 1)."""

    lr: float = 1e-4
    """Peak learning rate."""
    min_lr: float = 1e-6
    """Learning rate at the end of the run, and after it."""
    weight_decay: float = 0.1
    """Decoupled decay of weight matrices; biases and norms have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of Adam's means of gradients and of squared gradients, each in [0, 1)."""
    eps: float = 1e-8
    """Added to Adam's denominator."""
    clip: float = 1.0
    """Largest joint L2 norm of the gradients; also called max_grad_norm."""

    total_steps: int = 100_000
    """Optimizer steps of the whole run, warm-up included."""
    warmup_steps: int = 2000
    """Steps in which the learning rate rises from 0 to `lr`."""

    global_batch_size: int = 512
    """Sequences in one optimizer step, over all ranks."""
    micro_batch_size: int = 4
    """Sequences in one backward pass of one rank."""
    accumulation_steps: int | None = None
    """Micro-batches of one rank for each step. None: what the other three ask for."""
    num_ranks: int = 1
    """Processes that train together, data-parallel; also called world size."""

    label_smoothing: float = 0.0
    """Share of the target probability spread over all tokens, in [0, 1)."""
    z_loss: float = 1e-4
    """Weight of the z-loss, which keeps output logits from drifting; 0 for none."""
    precision: Precision = "bf16"
    """What the forward pass runs in: fp32, bf16 or fp16 (with loss scaling)."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _require_count(name, getattr(self, name), at_least=1)
        if self.accumulation_steps is not None:
            _require_count("accumulation_steps", self.accumulation_steps, at_least=1)
        _require_count("warmup_steps", self.warmup_steps, at_least=0)
        for name in ("lr", "eps", "clip"):
            value = getattr(self, name)
            _require(_is_number(value) and value > 0, name, "finite and positive", value)
        for name in ("min_lr", "weight_decay", "z_loss"):
            value = getattr(self, name)
            _require(_is_number(value) and value >= 0, name, "finite and not negative", value)
        for name in ("dropout", "attention_dropout", "label_smoothing"):
            value = getattr(self, name)
            _require(_is_share(value), name, "at least 0 and below 1", value)
        pair = isinstance(self.betas, tuple | list) and len(self.betas) == 2
        valid = pair and all(_is_share(beta) for beta in self.betas)
        _require(valid, "betas", "two numbers, each at least 0 and below 1", self.betas)
        object.__setattr__(self, "betas", tuple(self.betas))  # JSON and TOML know lists only
        check_precision(self.precision)
        self._check_together()
        self._check_batch()

    def _check_together(self) -> None:
        """Refuse settings that are right by themselves but not with each other.

        Raises:
            ConfigError: Two of them cannot work together.
        """
        if self.hidden_size % self.num_heads:
            near = _nearest_divisor(self.hidden_size, self.num_heads)
            raise ConfigError(
                f"hidden_size {self.hidden_size} cannot be divided among {self.num_heads} heads. "
                f"Take num_heads={near}, or a multiple of {self.num_heads} for hidden_size."
            )
        if self.min_lr > self.lr:
            raise ConfigError(
                f"min_lr is {self.min_lr:g}, above lr, {self.lr:g}: the learning rate falls from "
                "lr to min_lr. Lower min_lr, or pass min_lr=lr to keep the rate constant."
            )
        if self.warmup_steps > self.total_steps:
            raise ConfigError(
                f"warmup_steps is {self.warmup_steps}, but the run has {self.total_steps} steps: "
                "it would end before it reached its learning rate. Lower warmup_steps, or raise "
                "total_steps."
            )

    def _check_batch(self) -> None:
        """Refuse a global batch that is not micro-batch times accumulation times ranks.

        Raises:
            ConfigError: It does not divide.
        """
        whole, micro, ranks = self.global_batch_size, self.micro_batch_size, self.num_ranks
        once = micro * ranks  # sequences in one micro-batch of all ranks
        if whole % once:
            below, above = whole // once * once, (whole // once + 1) * once
            remedies = [f"global_batch_size={n}" for n in (below, above) if n]
            if whole % ranks == 0:
                remedies.append(f"micro_batch_size={_nearest_divisor(whole // ranks, micro)}")
            raise ConfigError(
                f"global_batch_size {whole} is not a multiple of micro_batch_size {micro} times "
                f"num_ranks {ranks}, which is {once}, so no number of accumulation steps makes it. "
                f"Take {' or '.join(remedies)}."
            )
        steps = self.accumulation_steps
        if steps is not None and steps * once != whole:
            raise ConfigError(
                f"micro_batch_size {micro} times accumulation_steps {steps} times num_ranks "
                f"{ranks} is {steps * once}, but global_batch_size is {whole}. Leave "
                f"accumulation_steps out, which makes it {whole // once}, or take "
                f"global_batch_size={steps * once}."
            )

    @property
    def accumulation(self) -> int:
        """Micro-batches of one rank for each optimizer step."""
        return self.global_batch_size // (self.micro_batch_size * self.num_ranks)

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimizer step, over all ranks."""
        return self.global_batch_size * self.max_len

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run."""
        return self.tokens_per_step * self.total_steps

    def model(self, *, generator: torch.Generator | None = None, **options: Any) -> GPT:
        """Build the network, on the CPU and in float32.

        Args:
            generator: Source of the first weights. None: PyTorch's own.
            options: Further ones of `trimtab.nn.GPT`. The feed-forward is a plain GELU unless they
                say otherwise, with two matrices of `ffn_size`; a gated one has three.

        Raises:
            ConfigError: An option is out of range, or a setting of this configuration.
        """
        settings: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "dim": self.hidden_size,
            "depth": self.num_layers,
            "num_heads": self.num_heads,
            "max_len": self.max_len,
            "hidden": self.ffn_size,
            "dropout": self.dropout,
        }
        if taken := settings.keys() & options.keys():
            raise ConfigError(
                f"{', '.join(sorted(taken))} of the model follow from the configuration. Change "
                "them there, with dataclasses.replace(config, ...)."
            )
        model = GPT(generator=generator, **settings, **{"feed_forward": "gelu"} | options)
        for module in model.modules():
            if isinstance(module, Attention):
                module.dropout = self.attention_dropout
        return model

    def optimizer(self, model: nn.Module) -> torch.optim.AdamW:
        """Build AdamW, fused where PyTorch has it, with decay on weight matrices alone.

        Args:
            model: Any; frozen parameters are left out.
        """
        groups = param_groups(model, self.weight_decay)
        params = [p for group in groups for p in group["params"]]
        fused = all(p.is_floating_point() and p.device.type in FUSED_DEVICES for p in params)
        return torch.optim.AdamW(
            groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused or None
        )

    def schedule(self, optimizer: torch.optim.Optimizer) -> Schedule:
        """Build the schedule: warm up to `lr`, then half a cosine down to `min_lr`.

        Args:
            optimizer: From `optimizer`, or any other whose learning rate is `lr`.
        """
        ratio = self.min_lr / self.lr
        return warmup_cosine(optimizer, self.warmup_steps, self.total_steps, ratio)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the training loss: cross-entropy with this configuration's smoothing and z-loss.

        Args:
            logits: `(batch, time, vocab)`.
            targets: Next tokens, `(batch, time)`; -100 where none counts.

        Returns:
            0-d, in nats a token.
        """
        return cross_entropy(
            logits, targets, label_smoothing=self.label_smoothing, z_loss=self.z_loss
        )

    def stepper_options(self) -> dict[str, Any]:
        """Return the keyword arguments of a `Stepper` that these settings decide."""
        return {"clip": self.clip, "precision": self.precision, "accumulate": self.accumulation}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON and TOML can hold them; `accumulation_steps` if given."""
        settings = asdict(self) | {"betas": list(self.betas)}
        return {name: value for name, value in settings.items() if value is not None}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Build a configuration from what `to_dict` returned, or a part of it.

        Args:
            settings: By name; what is left out keeps its default.

        Raises:
            ConfigError: A name is unknown, or a value out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in settings:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                near = SYNONYMS.get(name) or (close[0] if close else None)
                hint = f"Did you mean {near!r}?" if near else f"Known are {', '.join(known)}."
                raise ConfigError(f"LLMConfig has no setting {name!r}. {hint}")
        return cls(**settings)


_COUNTS: Final = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "ffn_size",
    "vocab_size",
    "max_len",
    "total_steps",
    "global_batch_size",
    "micro_batch_size",
    "num_ranks",
)


def _nearest_divisor(whole: int, wanted: int) -> int:
    divisors = (n for n in range(1, whole + 1) if whole % n == 0)
    return min(divisors, key=lambda n: abs(n - wanted))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _require(valid: bool, name: str, expected: str, value: object) -> None:  # noqa: FBT001 # a check
    if not valid:
        raise ConfigError(f"{name} must be {expected}, got {value!r}.")


def _require_count(name: str, value: object, *, at_least: int) -> None:
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= at_least
    _require(valid, name, f"a whole number of at least {at_least}", value)
