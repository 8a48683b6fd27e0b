"""What a policy's base does for it, and policies made of a function."""

import math

import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.guard._policy import FunctionPolicy, Limits, Policy


class Counting(Policy):
    """Flags every third step."""

    name = "counting"

    def __init__(self) -> None:
        super().__init__(seen=torch.zeros(2), calls=0)

    def judge(self, loss, norm):
        loss, norm, finite = self.prepare(loss, norm)
        self.memory["calls"] += 1
        self.memory["seen"] = self.memory["seen"] + finite
        return (~finite | (self.memory["calls"] % 3 == 0)).float()

    def accept(self) -> None:
        self.memory["seen"] = torch.zeros_like(self.memory["seen"])

    def limits(self) -> Limits:
        return Limits()


def judge(policy, number):
    return [policy.judge(None, torch.tensor(1.0)).item() for _ in range(number)]


def test_fresh_remembers_nothing_and_leaves_the_other_alone():
    policy = Counting()
    assert judge(policy, 4) == [0, 0, 1, 0]

    fresh = policy.fresh()

    assert isinstance(fresh, Counting)
    assert judge(fresh, 3) == [0, 0, 1]
    assert policy.memory["calls"] == 4
    assert policy.memory["seen"].tolist() == [4, 4]


def test_a_saved_state_is_a_copy():
    policy = Counting()
    judge(policy, 2)
    state = policy.state_dict()

    judge(policy, 1)

    assert state["calls"] == 2
    assert state["seen"].tolist() == [2, 2]


def test_a_loaded_state_is_a_copy():
    policy, state = Counting(), {"calls": 2, "seen": torch.ones(2)}

    policy.load_state_dict(state)
    policy.memory["seen"].add_(1)

    assert state["seen"].tolist() == [1, 1]
    assert judge(policy, 1) == [1]


def test_the_state_of_another_policy_is_refused():
    state = {"seen": torch.ones(3), "calls": 1}

    with pytest.raises(ConfigError) as error:
        Counting().load_state_dict(state)

    assert str(error.value) == (
        "The state of the policy 'counting' holds calls a number, seen (2,), got calls a number, "
        "seen (3,). Load it into a policy with the settings that it was saved with."
    )


def test_memory_moves_to_the_device_that_is_judged():
    policy = Counting()

    policy.to("meta")
    moved = policy.memory["seen"].device.type
    policy.memory["seen"] = torch.zeros(2, device="meta")
    flag = policy.judge(None, torch.tensor(1.0, device="meta"))

    assert moved == "meta"
    assert flag.device.type == policy.memory["seen"].device.type == "meta"
    assert policy.fresh().memory["seen"].device.type == "meta"


def test_values_are_brought_to_float32_without_their_graph():
    loss = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    norm = torch.tensor(3.0, dtype=torch.bfloat16)

    known, norm, finite = Counting().prepare(loss, norm)

    assert (known.dtype, norm.dtype) == (torch.float32, torch.float32)
    assert not known.requires_grad
    assert (known.item(), norm.item(), finite.item()) == (2.0, 3.0, True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "norm"])
def test_knows_what_is_not_finite(bad, where):
    values = {"loss": 1.0, "norm": 1.0} | {where: bad}

    *_, finite = Counting().prepare(*map(torch.tensor, values.values()))

    assert not finite


def test_a_function_is_a_policy():
    policy = FunctionPolicy(lambda loss, norm: norm > 5)

    flags = [policy.judge(None, torch.tensor(n)) for n in (1.0, 6.0, math.nan)]

    assert [flag.item() for flag in flags] == [0, 1, 1]
    assert {flag.dtype for flag in flags} == {torch.float32}
    assert policy.limits() == Limits()


@pytest.mark.parametrize("loss", [None, torch.tensor(2.0)])
def test_a_function_is_told_whether_the_loss_is_known(loss):
    seen = []
    policy = FunctionPolicy(lambda loss, norm: seen.append(loss) or norm < 0)

    policy.judge(loss, torch.tensor(1.0))

    assert seen == [loss]


def test_a_function_can_return_a_number():
    policy = FunctionPolicy(lambda loss, norm: (norm - 1).clamp(min=0))

    assert policy.judge(None, torch.tensor(3.0)).item() == 1
    assert policy.judge(None, torch.tensor(1.0)).item() == 0


def test_a_function_names_itself():
    def far(loss, norm):
        return norm > 5

    assert repr(FunctionPolicy(far)) == "FunctionPolicy(far)"
