import math

import pytest
import torch
from torch import nn

from trimtab.diagnosis import Outcome
from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.repair._apply import REMEDIES
from trimtab.repair._first import First
from trimtab.repair._plans import (
    BY_CODE,
    at_another_pace,
    candidates,
    direct,
    name_of,
    orders_of,
    other_paces,
    with_gates,
    without_scaling,
)
from trimtab.repair._remedy import Order
from trimtab.repair._suspects import boost, recipe


def finding(code, **fields):
    given = {
        "name": "x",
        "severity": Severity.WARNING,
        "symptom": Symptom.NO_LEARNING,
        "what": "it is",
    }
    return Finding(code=code, **{**given, **fields})


@pytest.fixture
def first(make_setup):
    return First(make_setup(), outcome=Outcome(None, None, None, (1.0, 1.0)))


def names(plans):
    return [name_of(plan) for plan in plans]


def test_every_action_is_known():
    used = {action for actions in BY_CODE.values() for action in actions}
    used |= {order.action for order in [*boost(), *recipe()]}
    assert used <= set(REMEDIES)


def test_causes_that_need_no_trial_are_mended_together(first):
    step = finding("TT420", severity=Severity.ERROR)
    first.findings = [step, finding("TT401"), finding("TT508")]
    assert name_of(direct(first)) == "plain_loop, filter_nonfinite"
    assert direct(first)[0].reason == "TT420"
    first.findings = [finding("TT201"), finding("TT304")]
    assert direct(first) == ()


def test_the_remedy_of_a_finding_is_taken_where_it_can_be_applied(first):
    weaker = finding("TT417", remedy=Fix(action="set_weight_decay", args={"value": 0.1}))
    assert names([orders_of(weaker, first)]) == ["set_weight_decay(value=0.1)"]
    assert orders_of(finding("TT507"), first) == []
    assert orders_of(finding("TT207", remedy=Fix(action="detect_anomaly")), first) == []


def test_a_first_loss_is_one_of_targets_or_of_weights(first):
    targets = Evidence(name="RMS of the targets", value=1e4, normal="<= 100")
    loss = Evidence(name="first loss", value=9.0, normal="<= 3")
    assert names([orders_of(finding("TT007", evidence=(targets,)), first)]) == ["scale_targets"]
    assert names([orders_of(finding("TT007", evidence=(loss,)), first)]) == ["shrink_head"]
    first.outcome = Outcome(None, None, None, (math.nan,))
    assert names([orders_of(finding("TT007", evidence=(loss,)), first)]) == ["reinitialise"]


def test_a_rate_that_jumped_is_capped_where_the_loss_was_best(first):
    first.rates = [(0.01 * 1.1**i, abs(30 - i) + 1.0) for i in range(60)]
    (order,) = orders_of(finding("TT419"), first)
    assert order.action == "cap_learning_rate"
    assert order.args["lr"] == pytest.approx(0.01 * 1.1**28)
    first.rates = []
    assert names([orders_of(finding("TT419"), first)]) == ["drop_schedule"]


def test_too_large_steps_are_first_made_smaller(first):
    first.outcome = Outcome(None, None, None, (math.nan,))
    plans = names(candidates(first, [finding("TT401")], ()))
    assert plans[1:3] == ["scale_learning_rate(factor=0.1)", "scale_learning_rate(factor=0.01)"]
    assert "align_batches" in plans
    assert name_of(tuple(recipe())) in plans


def test_too_small_steps_are_made_larger_by_what_was_measured(first):
    low = finding("TT402", remedy=Fix(action="scale_learning_rate", args={"factor": 700.0}))
    plans = names(candidates(first, [low], ()))
    assert plans[1:3] == ["scale_learning_rate(factor=700)", "scale_learning_rate(factor=7e+03)"]


def test_what_is_odd_is_tried_early(make_setup, task):
    setup = make_setup(
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.999, maximize=True),
        loss_fn=nn.MSELoss(reduction="sum"),
    )
    setup.model.requires_grad_(False)
    pairs = [(100 * x, 1000 * y) for x, y in task.pairs]
    first = First(setup, outcome=Outcome(None, None, None, (1.0,)), sample=pairs)
    plans = names(candidates(first, [], ()))
    assert [p for p in plans if "," not in p][:7] == [
        "plain_loop",
        "unfreeze",
        "usual_settings",
        "mean_loss",
        "usual_loss",
        "scale_targets",
        "normalise_inputs",
    ]


def test_every_plan_begins_with_what_has_helped(first):
    base = tuple(orders_of(finding("TT003"), first))
    plans = names(candidates(first, [], base))
    assert plans[1] == (
        "repoint_optimizer, use_adamw(lr=0.003), warm_up(steps=10), clip_gradients(max_norm=1)"
    )
    assert all(p.startswith("repoint_optimizer, ") for p in plans)
    assert len(plans) == len(set(plans))


def test_a_game_of_two_keeps_its_loop(first):
    first.adversary = True
    first.setup.train_step = print
    first.findings = [finding("TT420"), finding("TT508")]
    plans = names(candidates(first, [], ()))
    assert not [p for p in plans if "plain_loop" in p or "use_adamw" in p]
    assert name_of(direct(first)) == "filter_nonfinite"


def test_hooks_are_hung_on_the_optimizer_that_stays(first):
    base = (
        Order(action="scale_learning_rate", args={"factor": 0.1}),
        Order(action="clip_gradients", args={"max_norm": 5.0}),
    )
    plans = names(candidates(first, [], base))
    assert plans[1] == "use_adamw(lr=0.003), clip_gradients(max_norm=1), warm_up(steps=10)"


def test_a_rate_that_has_helped_is_the_one_to_go_on_from(first):
    base = (Order(action="scale_learning_rate", args={"factor": 200.0}),)
    plans = names(candidates(first, [], base))
    assert "scale_learning_rate(factor=2e+03)" in plans
    assert "scale_learning_rate(factor=60)" in plans


def test_another_loss_is_tried_only_where_the_loss_is_the_place(first):
    assert names([orders_of(finding("TT434", site="loss"), first)]) == [
        "usual_loss, skip_nonfinite"
    ]
    assert names([orders_of(finding("TT434", site="2.bias"), first)]) == ["skip_nonfinite"]


def test_weights_without_any_gradient_ask_for_another_loss(first):
    still = finding("TT408", remedy=Fix(action="check_optimizer"))
    assert names([orders_of(still, first)]) == ["fit_output, repoint_optimizer"]


def test_gates_come_first_for_a_recurrent_net_that_has_been_trained_in_vain(make_setup):
    setup = make_setup(model=lambda: nn.GRU(4, 8))
    first = First(setup, outcome=Outcome(None, None, None, (1.0, 1.0)))
    gates = "gate_recurrence, use_adamw(lr=0.01), warm_up(steps=10), clip_gradients(max_norm=1)"
    base = (Order(action="unfreeze"),)
    assert names(candidates(first, [], base))[0] == f"unfreeze, {gates}"
    assert gates in names(candidates(first, [], ()))[:2]
    assert name_of(with_gates(first, base)) == f"unfreeze, {gates}"
    first.adversary = True
    assert not any("gate" in name for name in names(candidates(first, [], base)))


def test_what_was_hot_before_is_not_after_it_was_mended(first):
    first.outcome = Outcome(None, None, None, (1.0, math.nan))
    base = (Order(action="reinitialise"),)
    assert "reinitialise, scale_learning_rate(factor=10)" not in names(candidates(first, [], base))
    calm = Outcome(None, None, None, (1.0, 0.5))
    assert "reinitialise, scale_learning_rate(factor=10)" in names(
        candidates(first, [], base, calm)
    )


def test_another_pace(first):
    def at(*orders, faster=True):
        return name_of(at_another_pace(first, orders, faster=faster))

    plain = Order(action="reinitialise")
    assert at(plain) == "reinitialise, scale_learning_rate(factor=3)"
    assert at(plain, faster=False) == "reinitialise, scale_learning_rate(factor=0.33)"
    assert at(Order(action="use_adamw", args={"lr": 3e-3})) == "use_adamw(lr=0.009)"
    assert at(Order(action="use_adamw", args={"lr": 3e-3}), faster=False) == "use_adamw(lr=0.001)"
    hot = Order(action="scale_learning_rate", args={"factor": 0.1})
    assert at(hot) == at(hot, faster=False) == "scale_learning_rate(factor=0.033)"
    cold = Order(action="scale_learning_rate", args={"factor": 10.0})
    assert at(cold) == "scale_learning_rate(factor=30)"


def test_what_the_data_show_needs_no_trial(first):
    first.sample = [(torch.randn(8, 4), torch.tensor([[1.0, 3000.0, 2.0]] * 8))]
    assert direct(first) == ()
    targets = Evidence(name="RMS of the targets", value=1e4, normal="<= 100")
    far = finding("TT007", evidence=(targets,))
    first.findings = [far]
    assert name_of(direct(first)) == "scale_rewards"
    assert names([orders_of(far, first)]) == ["scale_rewards"]
    both = names(candidates(first, [], (Order(action="scale_rewards"),)))
    assert not any("scale_targets" in name for name in both)
    first.findings = []
    first.sample = [(torch.full((4, 8), int(i >= 25)), torch.ones(4)) for i in range(40)]
    assert name_of(direct(first)) == "repeat_early"


def test_layers_that_let_nothing_through_are_mended_at_once(make_setup, task):
    class Always(nn.Linear):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.5))

    def model():
        return nn.Sequential(nn.Unflatten(1, (4, 1)), nn.LayerNorm(1), nn.Flatten(), Always(4, 1))

    outcome = Outcome(None, None, None, (1.0, 1.0))
    first = First(make_setup(model=model), outcome=outcome, sample=task.pairs)
    assert name_of(direct(first)) == "follow_mode, remove_norms"
    first = First(make_setup(), outcome=outcome, sample=task.pairs)
    assert direct(first) == ()


def test_layers_in_a_row_get_activations_late(make_setup, task):
    def model():
        return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    outcome = Outcome(None, None, None, (1.0, 1.0))
    first = First(make_setup(model=model), outcome=outcome, sample=task.pairs)
    assert names(candidates(first, [], ()))[-1] == "insert_activations"
    first = First(make_setup(), outcome=outcome, sample=task.pairs)
    assert "insert_activations" not in names(candidates(first, [], ()))


def test_a_plan_that_scales_indices_goes_on_without_that():
    assert without_scaling(tuple(boost())) == []
    (rest,) = without_scaling(tuple(recipe()))
    assert "normalise_inputs" not in name_of(rest)
    assert len(rest) == len(recipe()) - 1
    assert without_scaling((Order(action="normalise_inputs"),)) == []


def test_other_paces_of_a_good_plan(first, make_setup):
    plan = (Order(action="plain_loop"),)
    faster = "plain_loop, scale_learning_rate(factor=3)"
    boosted = "plain_loop, use_adamw(lr=0.003), warm_up(steps=10), clip_gradients(max_norm=1)"
    assert names(other_paces(first, plan)) == [faster, boosted]
    first.setup.model = nn.GRU(4, 4)
    assert names(other_paces(first, plan))[0].startswith("plain_loop, gate_recurrence, ")
    first.adversary = True
    assert len(other_paces(first, plan)) == 1
