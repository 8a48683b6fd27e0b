"""Spectral normalisation over a whole module tree."""

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from trimtab.nn._checks import check_count

M = TypeVar("M", bound=nn.Module)

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def spectral_norm_(module: M, *, num_iterations: int = 1) -> M:
    """Divide the weight of every linear and convolution layer by its largest singular value.

    Applies PyTorch's own parametrization, so each such layer is about 1-Lipschitz: the
    alternative to a gradient penalty in a GAN's critic. Initialise first: a parametrized
    weight is computed, and setting it has a cost. Layers that carry a parametrization on
    their weight already are passed over, so a second call changes nothing.

    Args:
        module: Changed in place; layers at any depth, itself included.
        num_iterations: Power iterations a forward pass in training mode, at least 1.

    Returns:
        The same module.

    Raises:
        ConfigError: `num_iterations` is below 1.

    Source: Miyato et al. 2018, arXiv:1802.05957.
    """
    check_count("num_iterations", num_iterations)
    for layer in list(module.modules()):
        if isinstance(layer, _LAYERS) and not parametrize.is_parametrized(layer, "weight"):
            spectral_norm(layer, n_power_iterations=num_iterations)
    return module
