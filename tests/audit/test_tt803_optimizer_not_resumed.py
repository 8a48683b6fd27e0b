import pytest
import torch

from trimtab.audit import OptimizerNotResumed
from trimtab.findings import Evidence

FIX = (
    "save optimizer.state_dict(), and load it into an optimizer that was built over the same "
    "parameters in the same order"
)


def momentum(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("optimizer", "num", "kinds", "what"),
    [
        (None, 12, "step, exp_avg, exp_avg_sq", "Adam's moments"),
        (momentum, 4, "momentum_buffer", "momentum buffers"),
        (lambda p: torch.optim.Adagrad(p, lr=0.1), 8, "step, sum", "its state"),
    ],
    ids=["AdamW", "momentum", "Adagrad"],
)  # fmt: skip
def test_fires_on_an_optimizer_that_is_not_saved(resume, make_build, optimizer, num, kinds, what):
    build = make_build(optimizer=optimizer, schedule=False)

    (found,) = resume(build, without=["optimizer"]).findings

    assert found == OptimizerNotResumed().finding(
        what=f"{num} of {num} values of the optimizer's state are not what was saved: {kinds}",
        site="0.weight",
        step=6,
        evidence=(Evidence(name="values that differ", value=num, normal="0"),),
        cause=found.cause,
        fix=FIX,
    )
    begins = "were not saved or not loaded: the optimizer begins anew, without memory"
    wrong = "have other values: they belong to other parameters, or were rounded"
    assert found.cause == f"{what} {wrong if what == 'its state' else begins}"


def test_a_learning_rate_that_is_lost_with_it_follows(resume, make_build):
    (found,) = resume(make_build(), without=["optimizer"]).findings

    assert found.name == "optimizer-not-resumed"
    assert [c.name for c in found.consequences] == ["group-settings-not-resumed"]


def test_tells_parts_of_the_state(resume, make_build, whole_state):
    save, _ = whole_state

    def partly(setup):
        state = save(setup)
        del state["optimizer"]["state"][3]
        return state

    (found,) = resume(make_build(), save=partly).findings

    assert found.what == (
        "3 of 12 values of the optimizer's state are not what was saved: step, exp_avg, exp_avg_sq"
    )
    assert found.cause == "Adam's moments of some parameters were not saved or not loaded"


def test_tells_states_of_other_parameters(resume, make_build, whole_state):
    save, _ = whole_state

    def rounded(setup):
        state = save(setup)
        for each in state["optimizer"]["state"].values():
            each["exp_avg"] = each["exp_avg"].bfloat16()
        return state

    (found,) = resume(make_build(), save=rounded).findings

    assert found.what.startswith("4 of 12 values of the optimizer's state are not what was saved")
    assert found.cause == (
        "Adam's moments have other values: they belong to other parameters, or were rounded"
    )


def test_silent_without_a_state(resume, make_build):
    build = make_build(optimizer=lambda p: torch.optim.SGD(p, lr=0.1), schedule=False)

    assert resume(build, without=["optimizer"]).ok


def test_silent_on_a_state_that_is_saved(resume, make_build):
    assert resume(make_build()).ok
