from dataclasses import fields

import pytest

from trimtab.errors import ConfigError
from trimtab.guard import POLICIES, Guard, Spike, as_guard


def test_none_and_false_are_no_guard():
    assert as_guard(None) is None
    assert as_guard(False) is None


def test_true_is_the_default_and_observe_does_not_act():
    assert as_guard(True) == Guard()
    assert as_guard("observe") == Guard(act=False)
    assert Guard().policy == "spike"
    assert Guard().act


@pytest.mark.parametrize("name", POLICIES)
def test_a_name_is_a_policy(name):
    assert as_guard(name) == Guard(policy=name)


def test_policies_functions_and_guards_are_taken_as_they_are():
    policy, guard = Spike(loss_z=8), Guard(explain=False)

    def function(loss, norm):
        return norm > 1

    assert as_guard(policy).policy is policy
    assert as_guard(function).policy is function
    assert as_guard(guard) is guard


def test_another_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'spike'"):
        as_guard("spikes")
    with pytest.raises(ConfigError, match="got 3"):
        Guard(policy=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"escalate_after": 0}, "escalate_after of a Guard must be a whole number of at least 1"),
        ({"snapshots": -1}, "snapshots of a Guard must be a whole number of at least 0, got -1"),
        ({"snapshots": 1}, "snapshots of a Guard must be 0 or at least 2, got 1"),
        ({"delay": 0}, "delay"),
        ({"delay": 2.5}, "got 2.5"),
        ({"rewarm": -1}, "rewarm"),
        ({"max_rollbacks": True}, "max_rollbacks of a Guard must be a whole number"),
        ({"keep_incidents": -1}, "keep_incidents"),
        ({"tape_bytes": -1}, "tape_bytes"),
        ({"overhead": 0}, "overhead of a Guard must be above 0 and below 1, got 0"),
        ({"overhead": 1.0}, "overhead of a Guard must be above 0 and below 1, got 1.0"),
        ({"max_share": 1.5}, "max_share of a Guard must be above 0 and at most 1, got 1.5"),
        ({"explain_s": float("nan")}, "explain_s of a Guard must be 0 or more seconds, got nan"),
        ({"explain_s": -1}, "explain_s"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Guard(**settings)


def test_the_least_values_are_taken():
    least = {"snapshots": 0, "rewarm": 0, "max_rollbacks": 0, "keep_incidents": 0}
    guard = Guard(**least, tape_bytes=0, explain_s=0, escalate_after=1, delay=1)

    assert {name: getattr(guard, name) for name in least} == least


def test_every_setting_has_a_docstring():
    source = __import__("inspect").getsource(Guard)
    for field in fields(Guard):
        after = source.split(f"    {field.name}: ")[1].split("\n")[1]
        assert after.strip().startswith('"""'), field.name
