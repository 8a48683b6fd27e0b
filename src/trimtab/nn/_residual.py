"""Residual wrappers that place a norm: pre-norm, post-norm and DeepNorm."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init import deepnorm_constants
from trimtab.nn._checks import check_choice, check_count, check_positive, check_probability
from trimtab.nn._norms import norm as build_norm
from trimtab.nn._stochastic_depth import StochasticDepth

FEATURE_NORMS = ("layer", "none", "rms")


class Residual(nn.Module, ABC):
    """A branch joined to its own input; each subclass is one way to join them.

    The wrapped module is `.branch`. Further arguments of `forward` go to the branch.

    Args:
        branch: Maps (..., dim) to the same shape.
        dim: Number of features, at least 1.
        norm: `"layer"`, `"rms"` or `"none"`.
        dropout: Drop probability of single values of the branch's output, in [0, 1].
        drop_path: Drop probability of a sample's whole branch, in [0, 1].

    Raises:
        ConfigError: One of these is out of range or unknown.
    """

    def __init__(
        self, branch: nn.Module, dim: int, *, norm: str, dropout: float, drop_path: float
    ) -> None:
        check_count("dim", dim)
        check_choice("norm", norm, FEATURE_NORMS)
        check_probability("dropout", dropout)
        check_probability("drop_path", drop_path)
        super().__init__()
        self.dim = dim
        self.norm = build_norm(norm, dim)
        self.branch = branch
        self.regularize = nn.Sequential()  # empty in most models: then it costs nothing
        if dropout > 0:
            self.regularize.append(nn.Dropout(dropout))
        if drop_path > 0:
            self.regularize.append(StochasticDepth(drop_path))

    @abstractmethod
    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Join `x`, (..., dim), with the branch's output; same shape."""

    def run_branch(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the branch on `x`, (..., dim), and check that the shape survived.

        Args:
            x: What the branch shall see.
            *args: Passed on to the branch.
            **kwargs: Passed on to the branch.

        Returns:
            The branch's output, the shape of `x`.

        Raises:
            ConfigError: The branch changed the shape, so nothing can be added to it.
        """
        y: torch.Tensor = self.branch(x, *args, **kwargs)
        if y.shape != x.shape:
            raise ConfigError(
                f"The branch of {type(self).__name__} changed the shape from {tuple(x.shape)} "
                f"to {tuple(y.shape)}; a residual connection needs both equal. End the branch "
                "in a projection back to the input's shape."
            )
        return y


class PreNorm(Residual):
    """`x + scale * f(norm(x))`: the default for deep networks.

    The identity path is free of norms, so gradients reach every layer; the stream grows
    with depth, so a model needs a norm after its last block.

    Args:
        branch: Maps (..., dim) to the same shape.
        dim: Number of features, at least 1.
        norm: `"layer"` or `"rms"`, before the branch; `"none"` leaves it out.
        scale: Constant factor on the branch. 1 / sqrt(number of layers) keeps both the
            stream and its change in one optimizer step bounded at any depth.
        dropout: Drop probability of single values of the branch's output, in [0, 1].
        drop_path: Drop probability of a sample's whole branch, in [0, 1].

    Raises:
        ConfigError: One of these is out of range or unknown.

    Source: Xiong et al. 2020, arXiv:2002.04745; the scale: Yang et al. 2023, arXiv:2310.02244.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        *,
        norm: str = "layer",
        scale: float = 1.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        check_positive("scale", scale)
        super().__init__(branch, dim, norm=norm, dropout=dropout, drop_path=drop_path)
        self.scale = scale

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Join `x`, (..., dim), with the branch's output; same shape."""
        y = self.regularize(self.run_branch(self.norm(x), *args, **kwargs))
        return torch.add(x, y, alpha=self.scale)


class PostNorm(Residual):
    """`norm(x + f(x))`: the first Transformer's order.

    Each norm bounds the stream, but also shrinks the identity path, so the first layers
    learn slowly and training without warmup diverges. Past some 20 layers prefer
    `PreNorm` or `DeepNorm`.

    Args:
        branch: Maps (..., dim) to the same shape.
        dim: Number of features, at least 1.
        norm: `"layer"` or `"rms"`, after the sum.
        dropout: Drop probability of single values of the branch's output, in [0, 1].
        drop_path: Drop probability of a sample's whole branch, in [0, 1].

    Raises:
        ConfigError: One of these is out of range or unknown.

    Source: Vaswani et al. 2017, arXiv:1706.03762; its limits: Wang et al. 2019, arXiv:1906.01787.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        *,
        norm: str = "layer",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        _require_norm("PostNorm", norm)
        super().__init__(branch, dim, norm=norm, dropout=dropout, drop_path=drop_path)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Join `x`, (..., dim), with the branch's output; same shape."""
        y = self.regularize(self.run_branch(x, *args, **kwargs))
        joined: torch.Tensor = self.norm(x + y)
        return joined


class DeepNorm(Residual):
    """`norm(alpha * x + f(x))`: post-norm that trains at 1,000 layers.

    `alpha` grows with depth, and the branch's weights must start smaller by `beta`:
    `trimtab.init.deepnorm_` sets them.

    Args:
        branch: Maps (..., dim) to the same shape.
        dim: Number of features, at least 1.
        num_layers: Layers M of the whole stack, at least 1; alpha = (2 M)^(1/4). In a
            Transformer a layer is one attention and one feed-forward, in two wrappers.
        norm: `"layer"` or `"rms"`, after the sum.
        dropout: Drop probability of single values of the branch's output, in [0, 1].
        drop_path: Drop probability of a sample's whole branch, in [0, 1].

    Raises:
        ConfigError: One of these is out of range or unknown.

    Source: Wang et al. 2022, arXiv:2203.00555, figure 2.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        *,
        num_layers: int,
        norm: str = "layer",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        check_count("num_layers", num_layers)
        _require_norm("DeepNorm", norm)
        super().__init__(branch, dim, norm=norm, dropout=dropout, drop_path=drop_path)
        self.alpha, _ = deepnorm_constants(num_layers)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Join `x`, (..., dim), with the branch's output; same shape."""
        y = self.regularize(self.run_branch(x, *args, **kwargs))
        joined: torch.Tensor = self.norm(torch.add(y, x, alpha=self.alpha))
        return joined


def _require_norm(owner: str, norm: str) -> None:
    if norm == "none":
        raise ConfigError(
            f"{owner} is a norm around a sum and cannot do without: got norm='none'. "
            "Choose 'layer' or 'rms', or use ReZero, which needs no norm."
        )
