"""Which remedies a finding asks for, and which are tried when findings do not say enough."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from trimtab.diagnosis._trials import frozen_share, has_unusual_settings
from trimtab.diagnosis._weighing import is_cause
from trimtab.findings import Finding
from trimtab.repair._apply import REMEDIES
from trimtab.repair._first import First
from trimtab.repair._remedy import Order
from trimtab.repair._scaled import first_tensor

Plan = tuple[Order, ...]

BY_CODE: Final[Mapping[str, tuple[str, ...]]] = {
    "TT001": ("register_modules", "repoint_optimizer"),
    "TT003": ("repoint_optimizer",),
    "TT004": ("split_weight_decay",),
    "TT005": ("unfreeze", "usual_loss"),
    "TT006": ("reinitialise",),
    "TT008": ("fit_output",),
    "TT009": ("match_shapes",),
    "TT010": ("fit_output",),
    "TT013": ("train_mode", "plain_loop"),
    "TT014": ("join_batches",),
    "TT016": ("plain_loop", "use_float32"),
    "TT017": ("warm_up",),
    "TT021": ("set_learning_rate",),
    "TT022": ("reinitialise",),
    "TT025": ("set_batchnorm_momentum",),
    "TT404": ("plain_loop", "use_float32"),
    "TT409": ("use_float32",),
    "TT413": ("plain_loop",),
    "TT418": ("unfreeze",),
    "TT420": ("plain_loop",),
    "TT421": ("plain_loop",),
    "TT422": ("plain_loop",),
    "TT423": ("plain_loop",),
    "TT424": ("plain_loop",),
    "TT426": ("plain_loop", "use_float32"),
    "TT427": ("train_mode", "plain_loop"),
    "TT428": ("plain_loop", "usual_loss"),
    "TT429": ("plain_loop",),
    "TT430": ("plain_loop",),
    "TT431": ("usual_settings",),
    "TT433": ("unfreeze",),
    "TT434": ("usual_loss", "skip_nonfinite"),
    "TT435": ("plain_loop",),
    "TT502": ("filter_nonfinite",),
    "TT504": ("rescale_labels",),
    "TT505": ("normalise_inputs",),
    "TT506": ("shuffle_batches",),
    "TT508": ("filter_nonfinite",),
    "TT510": ("align_batches",),
    "TT511": ("align_batches",),
}
"""Remedies of findings that name none themselves, or one that suits a person better."""

GUESSES: Final = frozenset({"TT401", "TT402", "TT305", "TT306", "TT407", "TT302"})
"""Codes whose factor for the learning rate is a guess: usual steps are tried instead."""


HOT: Final = frozenset({"TT102", "TT302", "TT306", "TT401", "TT406", "TT407"})
"""Codes of steps that are too large."""

RECIPE_AT: Final = 3
"""Plans that are tried before the recipe, which changes much, and with which nearly all trains."""

FEW: Final = 4
"""Examples up to which a batch is made larger: Wu & He 2018, arXiv:1803.08494, figure 1."""

ENOUGH: Final = 32
"""Examples that it is made of then, as Masters & Luschi 2018, arXiv:1804.07612, advise."""

MOSTLY: Final = 0.5
"""Share of frozen parameters from which on training all of them is tried."""


def direct(first: First) -> Plan:
    """Return the remedies of all causes that need no trial to be believed; may be empty.

    Args:
        first: The run as it was.
    """
    causes = [f for f in first.findings if is_cause(f, first.findings) and f.code not in GUESSES]
    return _joined(order for f in causes for order in orders_of(f, first))


def orders_of(finding: Finding, first: First) -> list[Order]:
    """Return the remedies for one finding; none if no program can apply any.

    Args:
        finding: Any.
        first: The run that it was found in.
    """
    if finding.code == "TT007":
        return _of_first_loss(finding)
    if finding.code == "TT432":
        norm = 1.0 if finding.remedy is None else finding.remedy.args.get("max_norm", 1.0)
        return [_order("plain_loop", finding, max_norm=max(1.0, float(norm)))]
    if finding.code in {"TT415", "TT419"}:
        return _of_schedule(finding, first)
    actions = BY_CODE.get(finding.code)
    if actions is not None:
        return [_order(action, finding) for action in actions]
    given = finding.remedy
    if given is None or given.action not in REMEDIES:
        return []
    if given.action in {"reinitialise", "initialise"}:
        return [_order("reinitialise", finding)]
    if given.action == "replace_activation":
        return [_order(given.action, finding, **given.args), _order("reinitialise", finding)]
    return [_order(given.action, finding, **given.args)]


def _of_first_loss(finding: Finding) -> list[Order]:
    name = finding.evidence[0].name if finding.evidence else ""
    if "targets" in name and "output" not in name:
        return [_order("scale_targets", finding)]
    return [_order("shrink_head", finding)]


def _of_schedule(finding: Finding, first: First) -> list[Order]:
    """Return what to do about a schedule: cap one that rises, drop one that ends too early."""
    best = _best_rate(first)
    if finding.code == "TT419" and best is not None:
        return [_order("cap_learning_rate", finding, lr=best)]
    return [_order("drop_schedule", finding)]


def _best_rate(first: First) -> float | None:
    """Return the rate that was in use some time before the loss was at its lowest."""
    known = [(rate, loss) for rate, loss in first.rates if math.isfinite(loss)]
    if len(known) < 10:
        return None
    width = 5
    levels = [
        (sum(loss for _, loss in known[i : i + width]), known[i][0])
        for i in range(len(known) - width)
    ]
    return min(levels)[1]


def candidates(first: First, found: Sequence[Finding], base: Plan) -> list[Plan]:
    """Return plans to be tried, the likeliest first.

    Args:
        first: The run as it was.
        found: What is wrong now, with what follows from it.
        base: Remedies that every plan begins with.
    """
    effects = [c for f in found for c in _flat(f.consequences)]
    everything = [*found, *effects]
    hot = _is_hot(first, {f.code for f in everything})
    plans = [orders_of(f, first) for f in found if f.code not in GUESSES]
    plans += [*_odd(first), *_rates(everything, hot=hot)]
    plans += [orders_of(f, first) for f in effects if f.code not in GUESSES]
    plans += [
        [Order(action="reinitialise")],
        [Order(action="reinitialise"), _scaled(0.1), _clipped()],
    ]
    if hot:
        plans.append([Order(action="align_batches")])
    if not first.adversary:
        place = 0 if base else min(len(plans), RECIPE_AT)
        plans[place:place] = [boost(), recipe()]
    joined = [_joined([*base, *plan]) for plan in plans]
    different: dict[str, Plan] = {name_of(base): ()}
    for plan in joined:
        different.setdefault(name_of(plan), plan)
    return [plan for plan in different.values() if plan]


def name_of(plan: Plan) -> str:
    """Return a plan in words; that of another plan is another."""
    return ", ".join(map(str, plan))


def _odd(first: First) -> Iterator[list[Order]]:
    """Yield remedies for what is far from what anybody does."""
    setup = first.setup
    maximizes = any(g.get("maximize") for g in setup.optimizer.param_groups)
    if maximizes or (setup.train_step is not None and not first.adversary):
        yield [Order(action="plain_loop")]
    rows = [
        len(t) for t in (first_tensor(x) for x, _ in first.sample[:8]) if t is not None and t.ndim
    ]
    if rows and max(rows) <= FEW:
        yield [Order(action="join_batches", args={"times": math.ceil(ENOUGH / max(rows))})]
    if frozen_share(setup.model) > MOSTLY:
        yield [Order(action="unfreeze")]
    if has_unusual_settings(setup.optimizer):
        yield [Order(action="usual_settings")]
    if _is_rising(first):
        best = _best_rate(first)
        yield [Order(action="cap_learning_rate", args={"lr": best or 1e-3})]
    if getattr(setup.loss_fn, "reduction", None) == "sum":
        yield [Order(action="mean_loss")]
    if _is_far([y for _, y in first.sample[:8]], 0.02, 20):
        yield [Order(action="scale_targets")]
    if _is_far([x for x, _ in first.sample[:8]], 0.1, 5):
        yield [Order(action="normalise_inputs")]


def _rates(found: Sequence[Finding], *, hot: bool) -> Iterator[list[Order]]:
    """Yield other learning rates, in the likelier direction first."""
    if hot:
        factors: tuple[float, ...] = (0.1, 0.01)
    else:
        low = [f.remedy for f in found if f.code == "TT402" and f.remedy is not None]
        guess = float(low[0].args.get("factor", 10.0)) if low else 10.0
        factors = (guess, 10 * guess) if guess > 10 else (10.0, 0.1)
    for factor in factors:
        yield [_scaled(factor)]


def _is_hot(first: First, codes: set[str]) -> bool:
    """Tell whether the run blew up, or made steps that were too large."""
    outcome = first.outcome
    return outcome.broken or outcome.worse or bool(codes & HOT)


def boost() -> list[Order]:
    """Return an optimizer with which nearly every model learns fast."""
    return [
        Order(action="use_adamw", args={"lr": 3e-3}),
        Order(action="warm_up", args={"steps": 10}),
        _clipped(),
    ]


def recipe() -> list[Order]:
    """Return what nearly every model trains with, when all else has failed."""
    return [
        Order(action="plain_loop"),
        Order(action="normalise_inputs"),
        Order(action="replace_activation", args={"kind": "bounded", "by": "ReLU"}),
        Order(action="insert_norms"),
        Order(action="reinitialise"),
        *boost(),
    ]


def _scaled(factor: float) -> Order:
    return Order(action="scale_learning_rate", args={"factor": factor})


def _clipped() -> Order:
    return Order(action="clip_gradients", args={"max_norm": 1.0})


def _is_far(values: Sequence[Any], least: float, most: float) -> bool:
    """Tell whether inputs or targets of floating point are of another size than is usual."""
    seen = [t for t in map(first_tensor, values) if t is not None and t.numel()]
    if not seen or not all(t.is_floating_point() for t in seen):
        return False
    sizes = [float(t.float().abs().mean()) for t in seen]
    finite = [size for size in sizes if math.isfinite(size)]
    return bool(finite) and not least < max(finite) < most


def _is_rising(first: First) -> bool:
    """Tell whether the learning rate rose tenfold or more after the first steps."""
    rates = [rate for rate, _ in first.rates if math.isfinite(rate)]
    return len(rates) > 10 and max(rates) > 10 * max(rates[:5])


def _flat(findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        yield finding
        yield from _flat(finding.consequences)


def _joined(orders: Iterable[Order]) -> Plan:
    """Return orders without repetition; of two for one action the later."""
    last: dict[str, Order] = {}
    for order in orders:
        last[order.action] = order
    return tuple(last.values())


def _order(action: str, finding: Finding, **args: Any) -> Order:
    return Order(action=action, args=args, site=finding.site, reason=finding.code)
