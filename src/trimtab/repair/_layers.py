"""Remedies for weights and layers of a model."""

from typing import Any, Final

import torch
from torch import nn

from trimtab.diagnosis._trials import reinitialise as draw_anew
from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._optimizers import adopt
from trimtab.repair._recurrent import lengths_of, remember
from trimtab.repair._remedy import Order

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "GELU": nn.GELU,
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "SiLU": nn.SiLU,
}
BOUNDED: Final = (nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Softsign, nn.Hardsigmoid)
REPLACED: Final = (*BOUNDED, nn.ReLU, nn.ReLU6, nn.ELU, nn.LeakyReLU)
_NORMS: Final = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def reinitialise(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Draw fresh initial weights, each layer by the activation that follows it."""
    length = max(lengths_of(setup.model, order.sample), default=0)
    draw_anew(setup.model)
    return [
        *remember(setup.model, length),
        Edit(
            what="initial weights",
            before="as built",
            after="drawn by trimtab.init.auto_",
            advice="call trimtab.init.auto_(model) after building it, and leave out the "
            "initialisation of your own",
        ),
    ]


@torch.no_grad()
def shrink_head(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Draw the last layer's weights small, so that the first outputs are."""
    heads = [(n, m) for n, m in setup.model.named_modules() if isinstance(m, nn.Linear)]
    if not heads:
        return []
    name, head = heads[-1]
    before = float(head.weight.std()) if head.weight.numel() > 1 else 0.0
    small = 1 / head.in_features  # as init.auto_ draws what makes the output
    nn.init.normal_(head.weight, std=small)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return [
        Edit(
            what="standard deviation of the weights",
            where=name,
            before=f"{before:.3g}",
            after=f"{small:.3g}",
            advice=f"initialise {name} with nn.init.normal_(weight, std={small:.3g})",
        )
    ]


def replace_activation(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Put another activation in the place of all of one `kind`, or of that at `site`.

    The kind `"bounded"` stands for sigmoid, tanh and their like.
    """
    new = ACTIVATIONS[str(order.args.get("by", "GELU"))]
    kind = order.args.get("kind")
    site = order.args.get("site")
    named = dict(setup.model.named_modules())
    if kind is None and isinstance(site, str) and isinstance(named.get(site), REPLACED):
        kind = type(named[site]).__name__
    everyone = BOUNDED if kind == "bounded" else REPLACED
    kinds = [k for k in everyone if kind in {None, "bounded", k.__name__}]
    hidden = _hidden_activations(setup.model, tuple(kinds))
    for parent, name, _ in hidden:
        setattr(parent, name, new())
    if not hidden:
        return []
    old = ", ".join(sorted({type(module).__name__ for _, _, module in hidden}))
    return [
        Edit(
            what=f"activation of {len(hidden)} layers",
            before=old,
            after=new.__name__,
            advice=f"use nn.{new.__name__}() in place of nn.{old}()",
        )
    ]


def _hidden_activations(
    model: nn.Module, kinds: tuple[type[nn.Module], ...]
) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return activations of these kinds with their parents; not one that ends the model."""
    last = list(model.modules())[-1]
    return [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in list(parent.named_children())
        if isinstance(child, kinds) and child is not last
    ]


def insert_norms(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Put a LayerNorm (after convolutions a GroupNorm) before each activation in a sequence."""
    if any(isinstance(m, _NORMS) for m in setup.model.modules()):
        return []
    count = sum(_with_norms(m) for m in list(setup.model.modules()) if isinstance(m, nn.Sequential))
    if not count:
        return []
    adopt(setup.optimizer, setup.model.parameters())
    return [
        Edit(
            what="normalisation layers",
            before="none",
            after=f"{count}, one before each activation",
            advice="put nn.LayerNorm (nn.GroupNorm after convolutions) between each layer and its "
            "activation",
        )
    ]


def _with_norms(sequence: nn.Sequential) -> int:
    """Insert norms into one sequence, and return how many."""
    layers: list[nn.Module] = []
    for layer in sequence:
        before = layers[-1] if layers else None
        if isinstance(layer, (*REPLACED, nn.GELU, nn.SiLU)) and before is not None:
            if isinstance(before, nn.Linear):
                layers.append(nn.LayerNorm(before.out_features))
            elif isinstance(before, nn.Conv2d):
                layers.append(nn.GroupNorm(1, before.out_channels))
        layers.append(layer)
    added = len(layers) - len(sequence)
    for i, layer in enumerate(layers):
        sequence.add_module(str(i), layer)
    return added


def set_batchnorm_momentum(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Give each BatchNorm torch's own momentum of 0.1."""
    norms = [m for m in setup.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = {m.momentum for m in norms}
    for norm in norms:
        norm.momentum = 0.1
    if before <= {0.1}:
        return []
    old = ", ".join(str(v) for v in sorted(before, key=str))
    return [
        Edit(
            what="momentum of BatchNorm",
            before=old,
            after="0.1",
            advice="use momentum=0.1: PyTorch's momentum is 1 minus that of Keras",
        )
    ]


def train_mode(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Train in training mode, whatever the loop body sets."""
    was = setup.model.training
    setup.model.train()
    return (
        []
        if was
        else [
            Edit(
                what="mode of the model",
                before="eval()",
                after="train()",
                advice="call model.train() before training, and again after each evaluation",
            )
        ]
    )


def register_modules(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Turn lists and dicts of modules into what PyTorch knows, and let the optimizer train them."""
    found = []
    for name, owner in list(setup.model.named_modules()):
        for key, value in list(vars(owner).items()):
            held = _as_modules(value)
            if held is not None and not key.startswith("_"):
                delattr(owner, key)
                owner.add_module(key, held)
                found.append(f"{name}.{key}" if name else key)
    if not found:
        return []
    new = adopt(setup.optimizer, (p for p in setup.model.parameters() if p.requires_grad))
    return [
        Edit(
            what="layers in a plain list or dict",
            where=", ".join(found),
            before=f"{new} parameters that neither model nor optimizer knew",
            after="nn.ModuleList or nn.ModuleDict",
            advice=f"wrap {', '.join(found)} in nn.ModuleList (nn.ModuleDict for a dict)",
        )
    ]


def _as_modules(value: Any) -> nn.Module | None:
    """Return a list or dict of modules as a module; None if it is something else."""
    if isinstance(value, list | tuple) and value and all(isinstance(v, nn.Module) for v in value):
        return nn.ModuleList(value)
    if isinstance(value, dict) and value and all(isinstance(v, nn.Module) for v in value.values()):
        return nn.ModuleDict(value) if all(isinstance(k, str) for k in value) else None
    return None
