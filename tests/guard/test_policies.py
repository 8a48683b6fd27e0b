"""The policies by name, and what all of them have in common."""

import copy
import math

import pytest
import torch

from trimtab.checkpoint._tree import flatten, unflatten
from trimtab.errors import ConfigError
from trimtab.guard._nonfinite import Nonfinite
from trimtab.guard._olmo import Olmo
from trimtab.guard._policies import POLICIES, as_policy
from trimtab.guard._policy import FunctionPolicy
from trimtab.guard._spike import Spike
from trimtab.guard._zclip_policy import ZClipPolicy

ALL = {
    "nonfinite": Nonfinite,
    "olmo": Olmo,
    "spike": Spike,
    "spike-on-device": lambda: Spike(at_once=False),
    "zclip": ZClipPolicy,
    "function": lambda: FunctionPolicy(lambda loss, norm: norm > 50),
}
MISTAKES = {Olmo: 1, ZClipPolicy: 12}
"""Steps of 400 sound ones that a policy takes for outliers, as published; the others none."""
every_policy = pytest.mark.parametrize("make", ALL.values(), ids=ALL)
NAMES = ["nonfinite", "olmo", "spike", "zclip"]


def sound(generator, number=200, loss=2.0, norm=1.0):
    """Losses and norms of a sound run."""
    noise = torch.randn(number, 2, generator=generator)
    return [(loss + 0.1 * a, norm * torch.exp(0.15 * b)) for a, b in noise]


def judge(policy, steps):
    return [policy.judge(loss, norm).item() for loss, norm in steps]


def test_there_are_these():
    assert sorted(POLICIES) == NAMES
    assert [as_policy(name).name for name in NAMES] == NAMES


def test_a_policy_is_returned_as_it_is():
    policy = Spike()

    assert as_policy(policy) is policy


def test_a_function_becomes_a_policy():
    policy = as_policy(lambda loss, norm: norm > 5)

    assert judge(policy, [(None, torch.tensor(4.0)), (None, torch.tensor(6.0))]) == [0, 1]


@pytest.mark.parametrize(
    ("name", "nearest"), [("spikes", "spike"), ("OLMo", "olmo"), ("z-clip", "zclip")]
)
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(ConfigError) as error:
        as_policy(name)

    assert str(error.value) == (
        f"There is no policy {name!r}. Known are nonfinite, olmo, spike, zclip. Did you mean "
        f"{nearest!r}?"
    )


@pytest.mark.parametrize(("given", "seen"), [(3.0, "3.0"), (Spike, "Spike"), (None, "None")])
def test_anything_else_is_refused(given, seen):
    with pytest.raises(ConfigError) as error:
        as_policy(given)

    assert str(error.value) == (
        "A policy is a name such as 'spike', an object such as Spike(), or a function of loss and "
        f"gradient norm; got {seen}."
    )


@every_policy
def test_a_sound_run_is_left_alone(make, generator):
    flags = judge(make(), sound(generator, 400))

    assert sum(flags) == 0 or sum(flags) <= MISTAKES[make]


@every_policy
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_what_is_not_finite_is_flagged_and_not_remembered(make, bad, where, generator):
    clean, poisoned = make(), make()
    for step in sound(generator, 150):
        spoilt = [*step]
        spoilt[where] = torch.tensor(bad)
        assert poisoned.judge(*spoilt).item() == 1
        assert clean.judge(*step).item() == poisoned.judge(*step).item()

    assert str(clean.limits()) == str(poisoned.limits())  # as text, since NaN is no NaN's equal


@every_policy
def test_answers_with_a_float_without_waiting(make, generator, no_host_sync):
    policy = make()
    steps = sound(generator, 60)

    with no_host_sync():
        flags = [policy.judge(loss, norm) for loss, norm in steps]
        flags += [policy.judge(None, norm) for _, norm in steps]
        policy.accept()

    assert {(flag.dtype, flag.shape) for flag in flags} == {(torch.float32, ())}


@every_policy
def test_a_loss_need_not_be_known(make, generator):
    policy = make()
    flags = judge(policy, [(None, norm) for _, norm in sound(generator)])

    assert sum(flags) <= MISTAKES.get(make, 0)

    assert policy.judge(None, torch.tensor(1000.0)).item() == (make is not Nonfinite)
    assert math.isinf(policy.limits().loss)


@every_policy
def test_goes_on_where_it_was_saved(make, generator):
    """Saved anywhere, in the middle of a burst too, and through the checkpoint's encoding."""
    steps = sound(generator, 120)
    for at in (50, 51, 52, 90, *range(100, 118)):
        steps[at] = (steps[at][0] * 4, steps[at][1] * 100)
    whole = make()
    flags, states = [], []
    for step in steps:
        states.append(copy.deepcopy(whole.state_dict()))
        flags += judge(whole, [step])

    for at in (0, 1, 7, 33, 51, 53, 90, 105, 115):
        resumed = make()
        resumed.load_state_dict(unflatten(*flatten(states[at])))
        assert judge(resumed, steps[at:]) == flags[at:]
        states_now = resumed.state_dict(), whole.state_dict()
        torch.testing.assert_close(*states_now, rtol=0, atol=0, equal_nan=True)


@every_policy
def test_a_fresh_one_has_seen_nothing(make, generator):
    steps = sound(generator, 100)
    policy = make()
    flags = judge(policy, steps)

    assert judge(policy.fresh(), steps) == flags
    assert type(policy.fresh()) is type(policy)


@pytest.mark.parametrize("kind", ["olmo", "spike", "spike-on-device", "zclip"])
def test_the_host_can_accept_what_was_flagged(kind, generator):
    policy = ALL[kind]()
    judge(policy, sound(generator))
    new = sound(generator, 40, norm=30.0)
    assert judge(policy, new[:6])[0] == 1

    policy.accept()

    assert judge(policy, new[6:]) == [0] * 34
    assert policy.limits().norm_level > 15


@pytest.mark.parametrize("kind", ["olmo", "spike", "spike-on-device", "zclip"])
def test_accepting_nothing_changes_nothing(kind, generator):
    policy = ALL[kind]()
    twin = policy.fresh()
    policy.accept()
    judge(policy, sound(generator, 200))
    before = policy.state_dict()

    policy.accept()

    torch.testing.assert_close(policy.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    judge(twin, sound(torch.Generator().manual_seed(0), 200))
    assert str(twin.limits()) == str(policy.limits())


@pytest.mark.parametrize("kind", ["olmo", "spike", "spike-on-device", "zclip"])
@pytest.mark.parametrize("which", ["loss", "norm"])
def test_the_limits_are_where_it_judges(kind, which, generator):
    policy = ALL[kind]()
    assert policy.limits().norm == math.inf
    judge(policy, sound(generator))
    limits = policy.limits()
    if kind == "zclip" and which == "loss":
        assert limits.loss == math.inf
        return

    for factor, flag in ((0.999, 0), (1.001, 1)):
        values = {"loss": limits.loss_level, "norm": limits.norm_level}
        values[which] = getattr(limits, which) * factor
        loss, norm = (torch.tensor(float(v)).nan_to_num(2.0) for v in values.values())
        assert copy.deepcopy(policy).judge(loss, norm).item() == flag
