"""The depth of a network as rules read it: weights in forward order, and what lies before them."""

from collections.abc import Sequence
from typing import Final

from trimtab.rules._history import History
from trimtab.rules._setup import ParamFacts, Setup

WEIGHTED: Final = frozenset({"linear", "recurrent", "attention"})
"""Roles of modules that mix what they are given by weights of their own."""


def weights_by_depth(history: History, sites: Sequence[str]) -> list[int]:
    """Return where the weight matrices stand among `sites`, in the order of a forward pass.

    Embeddings and the weights of norms are left out. Where the forward order is not known, it is
    that of the model; where nothing is known of the model, there are none.
    """
    place = {site: index for index, site in enumerate(sites)}
    params = [p for p in _by_depth(history) if p.role == "weight" and len(p.shape) >= 2]
    return [place[p.name] for p in params if p.name in place]


def first_layer(history: History, sites: Sequence[str]) -> list[int]:
    """Return where the parameters of the first module that has any stand among `sites`."""
    place = {site: index for index, site in enumerate(sites)}
    known = [p for p in _by_depth(history) if p.name in place]
    return [place[p.name] for p in known if p.module == known[0].module]


def _by_depth(history: History) -> list[ParamFacts]:
    """Return all parameters by the place of their module.

    One whose module was not seen keeps to the one before it in the model.
    """
    places = {name: index for index, name in enumerate(history.order)}
    keyed, last = [], -1
    for p in history.setup.params:
        last = places.get(p.module, last)
        keyed.append((last, p))
    return [p for _, p in sorted(keyed, key=lambda pair: pair[0])]


def by_depth(history: History, sites: Sequence[str]) -> list[str]:
    """Return modules in the order of a forward pass; those not seen in one come last."""
    places = {name: index for index, name in enumerate(history.order)}
    return sorted(sites, key=lambda site: places.get(site, len(places)))


def is_hidden(history: History, site: str) -> bool:
    """Tell whether a module's output goes into further weights that are trained with those before.

    The last activation of a generator is none, although a discriminator follows it, because another
    param group trains that. True where nothing is known of the model.
    """
    setup = history.setup
    if not setup.modules:
        return True
    order = history.order or [m.name for m in setup.modules]
    if site not in order:
        return True
    at = order.index(site)
    roles = {m.name: m.role for m in setup.modules}
    before = next((n for n in reversed(order[:at]) if roles.get(n) in WEIGHTED), None)
    after = [n for n in order[at + 1 :] if roles.get(n) in WEIGHTED and not site.startswith(n)]
    groups = _groups(setup)
    return any(before is None or groups.get(n) == groups.get(before) for n in after)


def _groups(setup: Setup) -> dict[str, int | None]:
    return {p.module: p.group for p in setup.params}


def parameters_by_depth(history: History, sites: Sequence[str]) -> list[str]:
    """Return parameters in the order of a forward pass; those not known of come last."""
    places = {p.name: index for index, p in enumerate(_by_depth(history))}
    return sorted(sites, key=lambda site: places.get(site, len(places)))
