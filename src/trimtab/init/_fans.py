"""How many inputs feed one output of a layer, and how many outputs one input feeds."""

import math

import torch
from torch import nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def fans(layer: nn.Module, weight: torch.Tensor) -> tuple[float, float]:
    """Count the fans of one weight, groups and transposition included.

    PyTorch's own count takes a transposed convolution's channels the wrong way round and
    ignores the groups. Here an output of a grouped convolution sees its group alone. An
    output of a transposed convolution with stride meets only every stride-th tap of the
    kernel, so its fan-in is smaller by that, which may make it a fraction. A plain
    convolution's stride is not counted, as in He et al.

    Args:
        layer: The layer, for its kind, groups and stride.
        weight: Its weight.

    Returns:
        `(fan_in, fan_out)`; averages over positions, borders apart.
    """
    shape = weight.shape
    if type(layer).__name__ == "Conv1D":  # Hugging Face's linear layer, (in, out)
        return shape[0], shape[1]
    taps = math.prod(shape[2:])
    if isinstance(layer, _TRANSPOSED):
        met = math.prod(max(1.0, k / s) for k, s in zip(shape[2:], layer.stride, strict=True))
        return shape[0] // layer.groups * met, shape[1] * taps
    groups = layer.groups if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) else 1
    return shape[1] * taps, shape[0] // groups * taps
