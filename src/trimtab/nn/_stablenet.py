"""StableNet: a residual MLP that trains at any depth."""

import math

import torch
from torch import nn

from trimtab.init import deepnorm_constants
from trimtab.nn._activation import activation as build_activation
from trimtab.nn._activation import gain_after
from trimtab.nn._checks import check_choice, check_count, check_probability
from trimtab.nn._head import Head
from trimtab.nn._norms import norm as build_norm
from trimtab.nn._residual import FEATURE_NORMS, PreNorm, Residual
from trimtab.nn._residual_choice import RESIDUALS, warn_if_unstable
from trimtab.nn._residual_choice import residual as build_residual
from trimtab.nn._scaled_residual import Highway
from trimtab.nn._stochastic_depth import linear_decay

_ENDS_IN_NORM = ("deep_norm", "post_norm")  # their last block normalises already


class HiddenLayer(nn.Module):
    """`linear(dropout(activation(x)))`: what one residual block adds.

    The linear layer comes last so that what is added has mean zero: the mean of a ReLU or
    GELU would add up over a thousand blocks.

    Args:
        width: Number of features.
        activation: A name that `trimtab.nn` knows.
        dropout: Drop probability of activations.
    """

    def __init__(self, width: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `x`, (batch, width), to the same shape."""
        y: torch.Tensor = self.out_proj(self.dropout(self.activation(x)))
        return y


class StableNet(nn.Module):
    """A residual MLP with normalisation and dropout that trains at 1,000 layers and more.

    An input projection, `depth` residual blocks of one linear layer each, a last norm and
    an output layer. The default block is `x + linear(act(norm(x))) / sqrt(depth)`: the
    signal stays within a factor of about 1.4 from first to last block, and so do the
    gradients, at any depth. The factor is a constant, so one optimizer step's change stays
    bounded too.

    The output layer starts small (standard deviation 1 / width, bias zero), so the first
    loss is that of guessing.

    Args:
        in_features: Values of one sample, after flattening.
        out_features: Classes or regression targets.
        width: Features inside.
        depth: Residual blocks, at least 1.
        residual: `"pre_norm"`, `"deep_norm"`, `"highway"`, `"layer_scale"`, `"rezero"` or
            `"post_norm"`; the last warns from 18 blocks on.
        norm: `"layer"`, `"rms"`, or for all but post-norm and DeepNorm `"none"`.
        activation: `"elu"`, `"gelu"`, `"leaky_relu"`, `"relu"`, `"silu"` or `"tanh"`.
        dropout: Drop probability of activations, in [0, 1].
        drop_path: Drop probability of the last block; grows linearly to it.
        generator: Source of the first weights, on their device. None: PyTorch's own.

    Raises:
        ConfigError: A name is unknown or a number out of range; before anything is built.

    Source: He et al. 2016, arXiv:1603.05027; the factor: Yang et al. 2023,
        arXiv:2310.02244; the output layer: Yang et al. 2022, arXiv:2203.03466, table 8.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int = 128,
        depth: int = 8,
        residual: str = "pre_norm",
        norm: str = "layer",
        activation: str = "gelu",
        dropout: float = 0.1,
        drop_path: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        check_count("in_features", in_features)
        check_count("out_features", out_features)
        check_count("width", width)
        check_count("depth", depth)
        check_choice("residual", residual, RESIDUALS)
        check_choice("norm", norm, FEATURE_NORMS)
        gain = gain_after(activation)
        check_probability("dropout", dropout)
        check_probability("drop_path", drop_path)
        warn_if_unstable(residual, depth)
        super().__init__()
        self.gain = gain * deepnorm_constants(depth)[1] if residual == "deep_norm" else gain
        self.input_proj = nn.Linear(in_features, width)
        self.blocks = nn.Sequential()
        for rate in linear_decay(drop_path, depth):
            branch = HiddenLayer(width, activation, dropout)
            self.blocks.append(_wrap(residual, branch, width, depth, norm, rate))
        self.norm = build_norm("none" if residual in _ENDS_IN_NORM else norm, width)
        self.head = Head(width, out_features, bias=True)
        self.initialize_(generator)

    def initialize_(self, generator: torch.Generator | None = None) -> None:
        """Draw all linear weights anew, as the constructor does; biases become zero.

        Args:
            generator: Source of randomness, on the weights' device. None: PyTorch's own.
        """
        _draw_(self.input_proj, 1.0, generator)
        for module in self.blocks.modules():
            if isinstance(module, HiddenLayer):
                _draw_(module.out_proj, self.gain, generator)
            elif isinstance(module, Highway):
                _draw_(module.gate, 1.0, generator)
        _draw_(self.head.proj, self.head.proj.in_features**-0.5, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute outputs.

        Args:
            x: (batch, ...), flattened to (batch, in_features); standardised inputs.

        Returns:
            (batch, out_features), float32.
        """
        x = self.input_proj(x.flatten(1))  # (batch, width)
        # Under autocast x is now bfloat16: 1,000 additions need the parameters' precision.
        x = self.blocks(x.to(self.input_proj.weight.dtype))
        y: torch.Tensor = self.head(self.norm(x))
        return y


def _wrap(
    kind: str, branch: nn.Module, width: int, depth: int, norm: str, drop_path: float
) -> Residual:
    """Wrap one block's branch; pre-norm alone takes its factor from the depth."""
    if kind == "pre_norm":
        scale = 1 / math.sqrt(depth)
        return PreNorm(branch, width, norm=norm, scale=scale, drop_path=drop_path)
    return build_residual(kind, branch, width, num_layers=depth, norm=norm, drop_path=drop_path)


@torch.no_grad()
def _draw_(layer: nn.Linear, gain: float, generator: torch.Generator | None) -> None:
    """Draw normal weights of variance gain^2 / fan_in; the bias becomes zero."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features), generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
