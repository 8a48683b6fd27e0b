import pytest

from trimtab.audit import WeightsNotResumed
from trimtab.findings import Evidence

FIX = "save model.state_dict() in full precision, and load it with strict=True"


def test_fires_on_a_model_that_is_not_saved(resume, make_build):
    (found,) = resume(make_build(), without=["model"]).findings

    change = found.evidence[1].value
    assert 0.1 < change < 10
    assert found == WeightsNotResumed().finding(
        what="4 of 4 parameters are not those that were saved: 0.weight, 0.bias, 2.weight and 1 "
        "more",
        site="0.weight",
        step=6,
        evidence=(
            Evidence(name="parameters that differ", value=4, normal="0"),
            Evidence(name="largest relative difference", value=change, normal="0"),
        ),
        cause="the state that was saved or loaded does not hold all of the model",
        fix=FIX,
    )


def test_tells_weights_that_were_rounded(resume, make_build, whole_state):
    save, _ = whole_state

    def rounded(setup):
        state = save(setup)
        return state | {"model": {k: v.bfloat16() for k, v in state["model"].items()}}

    (found,) = resume(make_build(), save=rounded).findings

    assert found.cause == "they were rounded, as by saving in half precision"
    assert found.evidence[1].value == pytest.approx(2e-3, rel=0.9)


def test_names_a_single_layer(resume, make_build, whole_state):
    _, load = whole_state

    def partial(setup, state):
        del state["model"]["2.bias"]
        setup.model.load_state_dict(state.pop("model"), strict=False)
        load(setup, state)

    (found,) = resume(make_build(), load=partial).findings

    assert found.what == "1 of 4 parameters are not those that were saved: 2.bias"


def test_silent_on_a_model_that_is_saved_whole(resume, make_build):
    assert resume(make_build()).ok
