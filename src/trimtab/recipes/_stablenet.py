"""The residual LayerNorm network on handwritten digits, at any depth up to a thousand layers."""

from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.losses import cross_entropy
from trimtab.nn import StableNet
from trimtab.train import Batch, OptimizerConfig, Recipe, RunConfig, Scope, Task, require

NUM_CLASSES: Final = 10
TEST_SHARE: Final = 0.2
"""Looked at once, at the end."""
VALIDATION_SHARE: Final = 0.1
"""Of what is left."""


@dataclass(frozen=True, kw_only=True)
class StableNetModelConfig:
    """Shape of the network and what keeps its signals in bounds."""

    depth: int = 8
    """Residual blocks; 1,000 train as well."""
    width: int = 128
    """Units in every layer."""
    residual: Literal["pre_norm", "post_norm", "deep_norm", "rezero", "layer_scale", "highway"] = (
        "pre_norm"
    )
    """How a block's branch joins the stream."""
    dropout: float = 0.1
    """Share of activations dropped in each branch."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over all classes."""

    def __post_init__(self) -> None:
        for name in ("depth", "width"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("dropout", "label_smoothing"):
            value = getattr(self, name)
            require(0 <= value < 1, name, "at least 0 and below 1", value)


@dataclass(frozen=True, kw_only=True)
class StableNetConfig:
    """Train the residual LayerNorm network on scikit-learn's handwritten digits."""

    run: RunConfig = field(default_factory=lambda: RunConfig(steps=600, eval_every=100))
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=2e-3, batch_size=64, beta2=0.99)
    )
    model: StableNetModelConfig = field(default_factory=StableNetModelConfig)


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits in three parts, each pixel standardised by the training part."""

    parts: dict[str, Batch]
    """`training`, `validation` and `test`: images `(examples, 64)`, labels `(examples,)`."""
    seed: int
    """Decides the order of training."""

    @classmethod
    def load(cls, seed: int) -> "Digits":
        """Read them from scikit-learn, which carries them; the parts are the same for every seed.

        Raises:
            ConfigError: scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
            from sklearn.model_selection import train_test_split
        except ImportError as error:
            raise ConfigError(
                "The digits come with scikit-learn: pip install 'trimtab[train]'."
            ) from error
        images, labels = load_digits(return_X_y=True)
        rest, x_test, rest_labels, y_test = train_test_split(
            images, labels, test_size=TEST_SHARE, random_state=0, stratify=labels
        )
        x_train, x_val, y_train, y_val = train_test_split(
            rest, rest_labels, test_size=VALIDATION_SHARE, random_state=0, stratify=rest_labels
        )
        mean, std = x_train.mean(), x_train.std()
        parts = {"training": (x_train, y_train), "validation": (x_val, y_val)}
        return cls(
            {
                name: (torch.tensor((x - mean) / std).float(), torch.tensor(y).long())
                for name, (x, y) in {**parts, "test": (x_test, y_test)}.items()
            },
            seed,
        )

    def batch(self, index: int, batch_size: int) -> Batch:
        """Return a batch; every epoch visits all examples once in an order of its own.

        Raises:
            ConfigError: A batch is larger than the training part.
        """
        images, labels = self.parts["training"]
        per_epoch = len(images) // batch_size
        if per_epoch == 0:
            raise ConfigError(
                f"batch_size {batch_size} is more than the {len(images)} training examples."
            )
        epoch, place = divmod(index, per_epoch)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(images), generator=generator)
        chosen = order[place * batch_size : (place + 1) * batch_size]
        return images[chosen], labels[chosen]


def build(config: StableNetConfig, generator: torch.Generator) -> Task:
    """Return model, data and loss.

    Raises:
        ConfigError: A batch is larger than the training part, or scikit-learn is missing.
    """
    digits = Digits.load(config.run.seed)
    batch_size = config.optimizer.batch_size
    digits.batch(0, batch_size)
    shape = config.model
    model = StableNet(
        digits.parts["training"][0].shape[1],
        NUM_CLASSES,
        width=shape.width,
        depth=shape.depth,
        dropout=shape.dropout,
        residual=shape.residual,
        generator=generator,
    )

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(batch[0])
        return cross_entropy(logits, batch[1], label_smoothing=shape.label_smoothing)

    def evaluate(model: nn.Module, scope: Scope) -> dict[str, float]:
        scores = {"val_loss": _score(model, digits.parts["validation"])[0]}
        if scope == "full":
            scores["test_accuracy"] = _score(model, digits.parts["test"])[1]
        return scores

    return Task(
        model=model,
        batch=lambda index: digits.batch(index, batch_size),
        loss=loss,
        weight=lambda batch: len(batch[1]),
        evaluate=evaluate,
        unit="samples",
        loss_unit="nats",
    )


def _score(model: nn.Module, part: Batch) -> tuple[float, float]:
    """Return mean cross-entropy and the share of right answers."""
    device = next(model.parameters()).device
    images, labels = part[0].to(device), part[1].to(device)
    logits = model(images)
    right = (logits.argmax(dim=-1) == labels).float().mean()
    return float(cross_entropy(logits, labels)), float(right)


STABLENET_RECIPE: Final = Recipe(name="stablenet", default=StableNetConfig(), build=build)
