from torch import nn

from trimtab.audit import ModeNotResumed
from trimtab.findings import Evidence

FIX = "call model.train() after loading, and eval() of what is to stay frozen"


def test_fires_on_a_model_that_is_left_in_eval_mode(resume, make_build, whole_state):
    _, load = whole_state

    def and_evaluates(setup, state):
        load(setup, state)
        setup.model.eval()

    (found,) = resume(make_build(), load=and_evaluates).findings

    assert found == ModeNotResumed().finding(
        what="4 of 4 modules are in eval mode after loading and were in training mode: the model, "
        "0, 1 and 1 more",
        site="the model",
        step=6,
        evidence=(Evidence(name="modules in another mode", value=4, normal="0"),),
        cause="the model was left in eval mode after loading: dropout is off, and BatchNorm uses "
        "its running statistics",
        fix=FIX,
    )


def freeze(build):
    def frozen(seed):
        setup = build(seed)
        setup.model[1].eval()
        return setup

    return frozen


def test_fires_on_a_frozen_module_that_is_set_free(resume, make_build, whole_state):
    _, load = whole_state

    def and_trains(setup, state):
        load(setup, state)
        setup.model.train()

    build = freeze(make_build(lambda: nn.BatchNorm1d(8)))
    (found,) = resume(build, load=and_trains).findings

    assert found.what == (
        "1 of 5 modules are in training mode after loading and were in eval mode: 1"
    )
    assert found.cause == (
        "modules that were frozen by eval() are in training mode: dropout is on, and BatchNorm "
        "moves its running statistics"
    )


def test_silent_on_modes_that_are_as_before(resume, make_build):
    assert resume(freeze(make_build(lambda: nn.BatchNorm1d(8)))).ok
