"""Normalisation layers by name, and which to pick."""

from torch import nn

from trimtab.errors import ConfigError
from trimtab.nn._checks import check_choice, check_count

NORMS = ("batch", "group", "layer", "none", "rms")

RMS_EPS = 1e-6  # LLaMA (arXiv:2302.13971); nn.RMSNorm's own default is 0.008 in bfloat16
_MAX_GROUPS = 32  # Wu & He 2018, table 3
_GROUP_SIZE = 16  # values a group needs where there is nothing else to average; same table


def norm(kind: str, dim: int, *, spatial_dims: int = 0) -> nn.Module:
    """Build a normalisation layer.

    | kind | averages over | where it helps | where it hurts |
    | --- | --- | --- | --- |
    | `"layer"` | the features of one sample or token | Transformers, MLPs, recurrent nets; any batch size; train = eval | convolutions with few channels |
    | `"rms"` | the same, without the mean | large language models: equal quality, less work | inputs whose mean is far from zero |
    | `"batch"` | the batch, channel by channel | convolutional image nets with 16 or more samples a device | small or uneven batches, sequences, GAN critics with a gradient penalty; ranks need SyncBatchNorm |
    | `"group"` | groups of channels of one sample | convolutions with small batches: detection, segmentation, U-Nets, diffusion | plain MLPs, where `"layer"` does the same |
    | `"none"` | nothing | ReZero, Fixup | nearly everything else when deep |

    Which to pick: `"layer"` when in doubt, `"rms"` for a language model, `"batch"` for a
    convolutional net with a large batch, `"group"` for one with a small batch.

    Args:
        kind: `"batch"`, `"group"`, `"layer"`, `"none"` or `"rms"`.
        dim: Number of features or channels, at least 1.
        spatial_dims: 0 for features last, (batch, dim) or (batch, time, dim); 1 to 3 for
            channels first, (batch, dim, *spatial). `"batch"` with 0 takes (batch, dim).

    Returns:
        PyTorch's own module. `"group"` uses the largest divisor of `dim` up to 32 that
        leaves two channels a group, and 16 features a group where `spatial_dims` is 0 (a
        group of one value would output zero). `"layer"` over channels is GroupNorm with
        one group.

    Raises:
        ConfigError: `kind` is unknown, `dim` is below 1, `spatial_dims` outside 0 to 3, or
            `"rms"` was asked for channels-first data, for which PyTorch has no layer.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167; Ba et al. 2016, arXiv:1607.06450; Zhang &
        Sennrich 2019, arXiv:1910.07467; Wu & He 2018, arXiv:1803.08494.
    """  # noqa: E501 - a table row cannot be wrapped
    check_choice("norm", kind, NORMS)
    check_count("dim", dim)
    if spatial_dims not in range(4):
        raise ConfigError(f"spatial_dims must be 0, 1, 2 or 3, got {spatial_dims!r}.")
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        batch_norms = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        return batch_norms[spatial_dims](dim)
    if kind == "group":
        return nn.GroupNorm(_num_groups(dim, 2 if spatial_dims else _GROUP_SIZE), dim)
    if spatial_dims == 0:
        return nn.LayerNorm(dim) if kind == "layer" else nn.RMSNorm(dim, eps=RMS_EPS)
    if kind == "layer":
        return nn.GroupNorm(1, dim)
    raise ConfigError(
        "norm 'rms' works on features in the last dimension, got spatial_dims="
        f"{spatial_dims}. Use 'group' for channels-first data, or move the channels last."
    )


def sync_batchnorm_(module: nn.Module) -> nn.Module:
    """Turn every BatchNorm below `module` into SyncBatchNorm, so that ranks share statistics.

    PyTorch's own conversion; parameters and running statistics are kept. Call it before
    wrapping in DDP or FSDP. SyncBatchNorm trains on accelerators alone and needs an
    initialised process group; in eval mode it runs anywhere.

    Args:
        module: Changed in place; must not be a BatchNorm itself, since a module cannot
            replace itself in its parent.

    Returns:
        The same module.

    Raises:
        ConfigError: `module` is itself a BatchNorm.
    """
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    converted: nn.Module = convert(module)  # type: ignore[no-untyped-call]  # PyTorch left it untyped
    if converted is not module:
        raise ConfigError(
            "sync_batchnorm_ works in place and got a bare BatchNorm, which it cannot replace "
            "in its parent. Pass the parent, or use "
            "torch.nn.SyncBatchNorm.convert_sync_batchnorm and keep what it returns."
        )
    return module


def _num_groups(dim: int, min_size: int) -> int:
    """Largest divisor of `dim`, at most 32, that leaves `min_size` channels a group."""
    fits = (n for n in range(_MAX_GROUPS, 0, -1) if dim % n == 0 and dim // n >= min_size)
    return next(fits, 1)
