"""What is fixed about a run: parameters, modules, optimizer settings, as facts for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

import torch
from torch import nn

from trimtab.optim import no_decay_params
from trimtab.signals import site_name

ParamRole = Literal["weight", "bias", "norm", "embedding"]
ModuleRole = Literal[
    "linear", "norm", "relu", "bounded", "activation", "embedding", "attention", "recurrent",
    "container", "other",
]  # fmt: skip

_RELUS: Final = (nn.ReLU, nn.ReLU6, nn.Threshold)
_BOUNDED: Final = (nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Softsign)
_ACTIVATIONS: Final = (
    nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU, nn.PReLU, nn.RReLU,
    nn.Softplus, nn.LogSigmoid, nn.Hardswish, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.GLU,
)  # fmt: skip
_LINEAR: Final = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
_RECURRENT: Final = (nn.RNNBase, nn.RNNCellBase)
_EMBEDDINGS: Final = (nn.Embedding, nn.EmbeddingBag)

_ADAPTIVE: Final = ("adam", "rmsprop", "adagrad", "adadelta", "lion", "adafactor", "rprop")


@dataclass(frozen=True, kw_only=True)
class ParamFacts:
    """One parameter of the model, or of the optimizer alone."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: ParamRole
    module: str
    """Site of the module that owns it."""
    trainable: bool
    group: int | None
    """Number of its param group, counted over all optimizers; None if it is in none."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, kw_only=True)
class ModuleFacts:
    """One module."""

    name: str
    kind: str
    """Its class."""
    role: ModuleRole
    leaf: bool
    """Whether it has no modules of its own."""


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """One param group, as it was at the start."""

    optimizer: str
    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None

    @property
    def adaptive(self) -> bool:
        """Whether the size of an update does not depend on that of the gradient."""
        return any(word in self.optimizer.lower() for word in _ADAPTIVE)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is fixed about a run."""

    params: tuple[ParamFacts, ...]
    """In the order of the model."""
    modules: tuple[ModuleFacts, ...]
    """In the order of registration."""
    groups: tuple[GroupFacts, ...]
    num_foreign: int = 0
    """Parameters that an optimizer holds and the model does not."""
    num_ranks: int = 1

    def param(self, name: str) -> ParamFacts | None:
        """Return the facts of a parameter by its site."""
        return next((p for p in self.params if p.name == name), None)

    def module(self, name: str) -> ModuleFacts | None:
        """Return the facts of a module by its site."""
        return next((m for m in self.modules if m.name == name), None)

    def group_of(self, name: str) -> GroupFacts | None:
        """Return the settings that a parameter is trained with."""
        p = self.param(name)
        return None if p is None or p.group is None else self.groups[p.group]

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        data = asdict(self)
        for param in data["params"]:
            param["shape"] = list(param["shape"])
        return data | {name: list(data[name]) for name in ("params", "modules", "groups")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_dict` was called on."""
        params = [ParamFacts(**(p | {"shape": tuple(p["shape"])})) for p in data["params"]]
        return cls(
            params=tuple(params),
            modules=tuple(ModuleFacts(**m) for m in data["modules"]),
            groups=tuple(GroupFacts(**g) for g in data["groups"]),
            num_foreign=data.get("num_foreign", 0),
            num_ranks=data.get("num_ranks", 1),
        )


EMPTY: Final = Setup(params=(), modules=(), groups=())
"""Of a run that nothing is known of but its numbers."""


def describe_setup(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], *, num_ranks: int = 1
) -> Setup:
    """Return what is fixed about a run.

    Args:
        model: Wrapped or not.
        optimizers: That train it.
        num_ranks: Processes that train it together.
    """
    groups = [(o, g) for o in optimizers for g in o.param_groups]
    group_of = {id(p): i for i, (_, g) in enumerate(groups) for p in g["params"]}
    own = {id(p) for p in model.parameters()}
    return Setup(
        params=tuple(_params(model, group_of)),
        modules=tuple(_modules(model)),
        groups=tuple(_group(o, g) for o, g in groups),
        num_foreign=len(group_of.keys() - own),
        num_ranks=num_ranks,
    )


def _params(model: nn.Module, group_of: Mapping[int, int]) -> list[ParamFacts]:
    spared = {id(p) for _, p in no_decay_params(model)}
    owners: dict[int, tuple[str, nn.Module]] = {}
    for name, module in model.named_modules():
        for p in module.parameters(recurse=False):
            owners.setdefault(id(p), (name, module))
    facts = []
    for name, p in model.named_parameters():
        owner_name, owner = owners[id(p)]
        facts.append(
            ParamFacts(
                name=site_name(name),
                shape=tuple(p.shape),
                dtype=str(p.dtype).removeprefix("torch."),
                role=_param_role(p, owner, spared=id(p) in spared),
                module=site_name(owner_name),
                trainable=p.requires_grad,
                group=group_of.get(id(p)),
            )
        )
    return facts


def _param_role(p: nn.Parameter, owner: nn.Module, *, spared: bool) -> ParamRole:
    if isinstance(owner, _EMBEDDINGS):
        return "embedding"
    if module_role(owner) == "norm":
        return "norm"
    return "bias" if spared or p.ndim < 2 else "weight"


def _modules(model: nn.Module) -> list[ModuleFacts]:
    seen: dict[str, ModuleFacts] = {}
    for name, module in model.named_modules():
        plain = site_name(name)
        leaf = next(module.children(), None) is None
        facts = ModuleFacts(
            name=plain, kind=type(module).__name__, role=module_role(module), leaf=leaf
        )
        seen.setdefault(plain, facts)
    return list(seen.values())


def module_role(module: nn.Module) -> ModuleRole:
    """Return what kind of layer a module is."""
    kinds: list[tuple[Any, ModuleRole]] = [
        (_RELUS, "relu"),
        (_BOUNDED, "bounded"),
        (_ACTIVATIONS, "activation"),
        (_LINEAR, "linear"),
        (_EMBEDDINGS, "embedding"),
        (_RECURRENT, "recurrent"),
    ]
    for classes, role in kinds:
        if isinstance(module, classes):
            return role
    name = type(module).__name__.lower().rstrip("123d_")
    if name.endswith("norm"):
        return "norm"
    if "attention" in name:
        return "attention"
    return "other" if next(module.children(), None) is None else "container"


def _group(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> GroupFacts:
    betas = group.get("betas") or (None, None)
    return GroupFacts(
        optimizer=type(optimizer).__name__,
        lr=float(group.get("lr", float("nan"))),
        weight_decay=float(group.get("weight_decay", 0.0) or 0.0),
        momentum=float(group.get("momentum", 0.0) or 0.0),
        beta1=None if betas[0] is None else float(betas[0]),
        beta2=None if len(betas) < 2 or betas[1] is None else float(betas[1]),
        eps=None if group.get("eps") is None else float(_number(group["eps"])),
    )


def _number(value: Any) -> float:
    return float(value[0] if isinstance(value, tuple | list) else value)
