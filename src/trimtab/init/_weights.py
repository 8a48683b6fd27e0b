"""The weights in a module tree that an initialiser can draw, each with its own fans."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from trimtab.errors import ConfigError
from trimtab.init._fans import fans

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
LAYERS = frozenset({"attention", "conv", "linear", "recurrent"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight:
    """A matrix or kernel: a layer's whole weight, or one part of a fused one."""

    path: str
    """Dotted path of the layer in the tree, with the part's name for fused weights."""
    layer: nn.Module
    param: nn.Parameter
    kind: str
    """`"attention"`, `"conv"`, `"embedding"`, `"linear"` or `"recurrent"`."""
    fan_in: float
    fan_out: float
    role: str = ""
    """In attention `"query"`, `"key"`, `"value"`; in recurrent layers `"input"`, `"state"`."""
    groups: int = 1
    """Independent blocks along the first dimension."""
    dim: int = 0
    """Dimension along which a fused weight is cut."""
    part: tuple[int, int] | None = None
    """Which part of how many equal ones; None: the whole parameter."""

    @property
    def values(self) -> torch.Tensor:
        """The weight's memory, without gradient tracking."""
        whole = self.param.detach()
        if self.part is None:
            return whole
        index, num = self.part
        size = whole.shape[self.dim] // num
        return whole.narrow(self.dim, index * size, size)

    def split(self, roles: tuple[str, ...], dim: int) -> list["Weight"]:
        """Cut a fused linear weight into equal parts along its output dimension."""
        num = len(roles)
        return [
            replace(
                self,
                path=f"{self.path}.{role}",
                role=role,
                fan_out=self.fan_out / num,
                dim=dim,
                part=(i, num),
            )
            for i, role in enumerate(roles)
        ]


def find_weights(module: nn.Module, kinds: Collection[str] = LAYERS) -> list[Weight]:
    """List every weight of these kinds below `module`, a tied one once.

    Frozen and parametrised weights are left out: the first are to stay as they are, the
    second are computed. A weight that an embedding shares with a layer is an embedding.

    Args:
        module: Any tree.
        kinds: Of `Weight.kind`.

    Returns:
        In order of registration; at least one.

    Raises:
        ConfigError: There is none, or one has no shape yet.
    """
    found: list[Weight] = []
    every = list(_all_weights(module))
    seen = {id(w.param) for w in every if w.kind == "embedding" and w.kind not in kinds}
    for weight in every:
        if weight.kind not in kinds or id(weight.param) in seen:
            continue
        found.append(weight)
        if weight.part is None or weight.part[0] + 1 == weight.part[1]:
            seen.add(id(weight.param))
    if not found:
        raise ConfigError(
            f"{type(module).__name__} has no weight to initialise: none of kind "
            f"{', '.join(sorted(kinds))} that is trainable and not parametrised. Pass a module "
            "with such layers, unfreeze them, or initialise before torch.nn.utils.parametrize."
        )
    return found


def find_biases(layer: nn.Module) -> list[nn.Parameter]:
    """List the trainable biases of one layer, without those of its children."""
    names = {"bias", "in_proj_bias"}
    return [
        p
        for name, p in layer.named_parameters(recurse=False)
        if p.requires_grad
        and not is_lazy(p)
        and (name in names or (isinstance(layer, RECURRENT) and name.startswith("bias")))
    ]


def is_conv1d(layer: nn.Module) -> bool:
    """Tell Hugging Face's `Conv1D`: a linear layer whose weight is (in, out)."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def _all_weights(module: nn.Module) -> Iterator[Weight]:
    for path, layer in module.named_modules():
        own = dict(layer.named_parameters(recurse=False))  # without what is computed
        for name, param in own.items():
            if not _is_weight(layer, name) or not param.requires_grad:
                continue
            if is_lazy(param):
                raise ConfigError(
                    f"The layer {path or type(layer).__name__!r} has no shape yet. Run one batch "
                    "through the model, then initialise it."
                )
            if param.is_floating_point():
                yield from _weights_of(path, layer, name, param)


def _is_weight(layer: nn.Module, name: str) -> bool:
    if isinstance(layer, nn.MultiheadAttention):
        return name.endswith("proj_weight")
    if isinstance(layer, RECURRENT):
        return name.startswith("weight")
    known = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED, *EMBEDDINGS)
    return name == "weight" and (isinstance(layer, known) or is_conv1d(layer))


def _weights_of(path: str, layer: nn.Module, name: str, param: nn.Parameter) -> Iterator[Weight]:
    if isinstance(layer, nn.MultiheadAttention):
        whole = _whole(f"{path}.{name}".lstrip("."), layer, param, "attention")
        if name == "in_proj_weight":
            yield from whole.split(("query", "key", "value"), dim=0)
        else:
            roles = {"q": "query", "k": "key", "v": "value"}
            yield replace(whole, role=roles[name[0]])
    elif isinstance(layer, RECURRENT):
        whole = _whole(f"{path}.{name}".lstrip("."), layer, param, "recurrent")
        role = "state" if name.startswith("weight_hh") else "input"
        gates = 1 if name.startswith("weight_hr") else _num_gates(layer)
        for gate in whole.split(tuple(map(str, range(gates))), dim=0):
            yield replace(gate, role=role)
    elif isinstance(layer, EMBEDDINGS):
        yield _whole(path, layer, param, "embedding")
    elif isinstance(layer, CONVOLUTIONS + TRANSPOSED):
        yield replace(_whole(path, layer, param, "conv"), groups=int(layer.groups))
    else:
        yield _whole(path, layer, param, "linear")


def _whole(path: str, layer: nn.Module, param: nn.Parameter, kind: str) -> Weight:
    fan_in, fan_out = fans(layer, param)
    return Weight(path=path, layer=layer, param=param, kind=kind, fan_in=fan_in, fan_out=fan_out)


def _num_gates(layer: nn.Module) -> int:
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        return 4
    return 3 if isinstance(layer, nn.GRU | nn.GRUCell) else 1
