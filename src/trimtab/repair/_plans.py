"""Which remedies a finding asks for, and which are tried when findings do not say enough."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from trimtab.diagnosis import Outcome
from trimtab.diagnosis._weighing import is_cause
from trimtab.findings import Finding, Fix
from trimtab.repair._apply import REMEDIES
from trimtab.repair._blocked import norms_over_one
from trimtab.repair._dropout import calls_that_drop
from trimtab.repair._first import First
from trimtab.repair._linear import bare_pairs
from trimtab.repair._recurrent import is_recurrent
from trimtab.repair._remedy import Order
from trimtab.repair._shift import shifts_for_good
from trimtab.repair._suspects import (
    afresh,
    best_rate,
    boost,
    clipped,
    gated,
    has_rewards,
    is_hot,
    odd_data,
    odd_settings,
    other_rates,
    rates,
    recipe,
    scaled,
)

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
    "TT023": ("keep_graph",),
    "TT025": ("set_batchnorm_momentum",),
    "TT026": ("follow_mode",),
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


SETTINGS: Final = frozenset(
    {
        "scale_learning_rate", "set_learning_rate", "drop_schedule", "usual_settings",
        "set_weight_decay", "set_eps", "set_beta2",
    }
)  # fmt: skip
"""Actions that change an optimizer's settings."""

HOOKS: Final = frozenset({"warm_up", "cap_learning_rate", "clip_gradients", "skip_nonfinite"})
"""Actions that hang something on the optimizer."""


def direct(first: First) -> Plan:
    """Return the remedies of all causes that need no trial to be believed; may be empty.

    Args:
        first: The run as it was.
    """
    causes = [f for f in first.findings if is_cause(f, first.findings) and f.code not in GUESSES]
    model = first.setup.model
    seen = [Order(action="repeat_early")] if shifts_for_good(first.sample) else []
    if calls_that_drop(model, first.sample, training=False):
        seen.append(Order(action="follow_mode"))
    if norms_over_one(model, first.sample):
        seen.append(Order(action="remove_norms"))
    if has_rewards(first) and any(f.code == "TT007" for f in first.findings):
        seen.append(Order(action="scale_rewards"))
    return _joined([*seen, *(order for f in causes for order in orders_of(f, first))], first)


def orders_of(finding: Finding, first: First) -> list[Order]:
    """Return the remedies for one finding; none if no program can apply any.

    Args:
        finding: Any.
        first: The run that it was found in.
    """
    if finding.code == "TT007":
        return _of_first_loss(finding, first)
    if finding.code == "TT432":
        norm = 1.0 if finding.remedy is None else finding.remedy.args.get("max_norm", 1.0)
        return [_order("plain_loop", finding, max_norm=max(1.0, float(norm)))]
    if finding.code == "TT408" and finding.remedy == Fix(action="check_optimizer"):
        return [_order("fit_output", finding), _order("repoint_optimizer", finding)]
    if finding.code == "TT434" and finding.site != "loss":  # not for another loss to mend
        return [_order("skip_nonfinite", finding)]
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


def _of_first_loss(finding: Finding, first: First) -> list[Order]:
    name = finding.evidence[0].name if finding.evidence else ""
    if "targets" in name and "output" not in name:
        rewards = has_rewards(first)
        return [_order("scale_rewards" if rewards else "scale_targets", finding)]
    if first.outcome.broken or first.outcome.worse:  # it is more than the last layer
        return [_order("reinitialise", finding)]
    return [_order("shrink_head", finding)]


def _of_schedule(finding: Finding, first: First) -> list[Order]:
    """Return what to do about a schedule: cap one that rises, drop one that ends too early."""
    best = best_rate(first)
    if finding.code == "TT419" and best is not None:
        return [_order("cap_learning_rate", finding, lr=best)]
    return [_order("drop_schedule", finding)]


def candidates(
    first: First, found: Sequence[Finding], base: Plan, now: Outcome | None = None
) -> list[Plan]:
    """Return plans to be tried, the likeliest first.

    Args:
        first: The run as it was.
        found: What is wrong now, with what follows from it.
        base: Remedies that every plan begins with.
        now: How the run with those went; None if there was none.
    """
    effects = [c for f in found for c in _flat(f.consequences)]
    everything = [*found, *effects]
    hot = is_hot(first.outcome, {f.code for f in everything}) if now is None else is_hot(now, set())
    plans = [orders_of(f, first) for f in found if f.code not in GUESSES]
    plans += [*odd_settings(first), *odd_data(first)]
    likely = len(plans)
    factor = next((o.args["factor"] for o in base if o.action == "scale_learning_rate"), None)
    if factor is None:
        plans += rates(everything, hot=hot)
    else:  # it has helped: go on from there
        around = (0.1, 3.0) if hot else (0.3, 10.0) if factor < 1 else (10.0, 0.3)
        plans += [[scaled(factor * more)] for more in around]
    rated = len(plans)
    plans += [orders_of(f, first) for f in effects if f.code not in GUESSES]
    plans += [
        [Order(action="reinitialise")],
        [Order(action="reinitialise"), scaled(0.1), clipped()],
        [scaled(0.1)],
    ]
    if bare_pairs(first.setup.model, first.sample):
        plans.append([Order(action="insert_activations")])
    if hot:
        plans.append([Order(action="align_batches")])
    if not first.adversary:
        place = likely if base else rated
        used = [float(o.args["lr"]) for o in base if o.action == "use_adamw"]
        around_it = other_rates(used[0]) if used else []
        plans[place:place] = [*around_it, boost(), recipe(), afresh(), boost(1e-2)]
        if is_recurrent(first.setup.model):
            place = 0 if base and not used else likely
            plans.insert(place, gated())
    joined = [_joined([*base, *plan], first) for plan in plans]
    different: dict[str, Plan] = {name_of(base): ()}
    for plan in joined:
        different.setdefault(name_of(plan), plan)
    return [plan for plan in different.values() if plan]


def at_another_pace(first: First, plan: Plan, *, faster: bool) -> Plan:
    """Return a plan that all but reached its goal with a rate three times as high, or as low.

    Args:
        first: The run as it was.
        plan: What was changed.
        faster: Whether it was still learning when it ended; a rate that was too high at first is
            made lower all the same.
    """
    times = 3.0 if faster else 1 / 3
    for order in plan:
        if order.action == "use_adamw":
            other = {"lr": _rounded(float(order.args["lr"]) * times)}
            return _joined([*plan, Order(action="use_adamw", args=other)], first)
        if order.action == "scale_learning_rate":
            factor = float(order.args["factor"])
            times = factor * (times if factor > 1 else 1 / 3)
    return _joined([*plan, scaled(_rounded(times))], first)


def other_paces(first: First, plan: Plan) -> list[Plan]:
    """Return a plan that is good at other paces, of which one may learn more.

    Args:
        first: The run as it was.
        plan: What was changed.
    """
    faster = at_another_pace(first, plan, faster=True)
    if first.adversary:
        return [faster]
    gates = [with_gates(first, plan)] if is_recurrent(first.setup.model) else []
    return [*gates, faster, _joined([*plan, *boost()], first)]


def with_gates(first: First, plan: Plan) -> Plan:
    """Return a plan with gates that remember, and an optimizer that suits them.

    Args:
        first: The run as it was.
        plan: What was changed.
    """
    return _joined([*plan, *gated()], first)


def without_scaling(plan: Plan) -> list[Plan]:
    """Return what is left of a plan that cannot be run, if it scales inputs that may be indices.

    Args:
        plan: What was changed.
    """
    rest = tuple(order for order in plan if order.action != "normalise_inputs")
    return [rest] if rest and len(rest) < len(plan) else []


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def name_of(plan: Plan) -> str:
    """Return a plan in words; that of another plan is another."""
    return ", ".join(map(str, plan))


def _flat(findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        yield finding
        yield from _flat(finding.consequences)


def _joined(orders: Iterable[Order], first: First) -> Plan:
    """Return orders in the sequence in which they can be applied, one for each action.

    Of two for one action the later counts. What another optimizer would undo is left out, and
    hooks come last, since they belong to the optimizer that is there. A loop body that learns from
    several losses stays.
    """
    last: dict[str, Order] = {}
    for order in orders:
        if order.action == "use_adamw":
            last = {k: v for k, v in last.items() if k not in SETTINGS}
        if order.action == "plain_loop" and first.adversary:
            continue
        last[order.action] = order
    if "scale_rewards" in last:  # the targets are fields of which a loss makes others
        last.pop("scale_targets", None)
    return tuple(sorted(last.values(), key=_phase))


def _phase(order: Order) -> int:
    """Return when an order is applied: weights after layers, the optimizer after both."""
    if order.action in HOOKS:
        return 3
    if order.action in SETTINGS or order.action == "use_adamw":
        return 2
    return 1 if order.action in {"reinitialise", "shrink_head"} else 0


def _order(action: str, finding: Finding, **args: Any) -> Order:
    return Order(action=action, args=args, site=finding.site, reason=finding.code)
