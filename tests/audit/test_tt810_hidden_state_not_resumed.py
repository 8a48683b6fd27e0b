import torch
from torch import nn

from trimtab.audit import HiddenStateNotResumed, audit_resume
from trimtab.findings import Evidence


class Counting(nn.Module):
    """A module that counts its calls in a plain attribute."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x / self.calls


def test_fires_on_a_counter_in_a_module(resume, make_build):
    (found,) = resume(make_build(Counting)).findings

    assert found == HiddenStateNotResumed().finding(
        what="1 further values are not what was saved: 1.calls",
        site="1.calls",
        step=6,
        evidence=(
            Evidence(name="values that differ", value=1, normal="0"),
            Evidence(name="1.calls", value="0", normal="5"),
        ),
        cause="the training step depends on state that was not saved or not loaded, such as a loss "
        "scale, an average of weights or a counter",
        fix="save and load its state_dict() too; keep counters in buffers of the model",
    )


def scaled():
    """Return a loop body with a loss scaler of its own."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=2)

    def step(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    step.scaler = scaler
    return step


def test_fires_on_a_loss_scale(resume, make_build):
    (found,) = resume(make_build(train_step=scaled)).findings

    assert found.what == (
        "2 further values are not what was saved: GradScaler: scale, GradScaler: _growth_tracker"
    )
    assert found.evidence[1] == Evidence(name="GradScaler: scale", value="2", normal="8")


def test_silent_on_a_loss_scale_that_is_saved(resume, make_build, whole_state):
    save, load = whole_state

    def with_scale(setup):
        return save(setup) | {"scaler": setup.train_step.scaler.state_dict()}

    def take_up(setup, state):
        setup.train_step.scaler.load_state_dict(state.pop("scaler"))
        load(setup, state)

    assert resume(make_build(train_step=scaled), save=with_scale, load=take_up).ok


def every_second():
    """Return a loop body that steps in every second call; the counter is the optimizer's own."""

    def step(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y) / 2
        loss.backward()
        count = optimizer.param_groups[0]["calls"] = 1 + optimizer.param_groups[0].get("calls", 0)
        if count % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return step


def test_fires_on_gradients_in_the_middle_of_a_window(resume, make_build):
    build = make_build(train_step=every_second)

    (found,) = resume(build, stop=5).findings

    assert found == HiddenStateNotResumed().finding(
        what="gradients of 4 parameters are not what they were in the middle of an accumulation "
        "window",
        site="0.weight",
        step=6,
        evidence=(Evidence(name="gradients that differ", value=4, normal="0"),),
        cause="the run was interrupted between two micro-batches, whose gradients were not saved",
        fix="save where a window ends, after optimizer.step() and zero_grad(), or keep the "
        "gradients as trimtab.Stepper.state_dict() does",
    )
    assert resume(build, stop=4).ok


def test_says_what_nothing_explains(resume, make_build):
    def counted():
        calls = iter(range(1, 100))

        def step(model, optimizer, loss_fn, x, y):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y) / next(calls)
            loss.backward()
            optimizer.step()
            return loss

        return step

    audit = resume(make_build(train_step=counted))

    assert audit.findings == [
        HiddenStateNotResumed().finding(
            what="the resumed run is another one from step 6 on, although all that is known of its "
            "state was brought back",
            step=6,
            evidence=(Evidence(name="first step that differs", value=6, normal="none"),),
            cause="it depends on something beside model, optimizer, schedule, data and random "
            "states: a counter in the loop, a global variable, a file",
            fix="look for what the training step reads and save() does not save",
        )
    ]
    assert audit.facts["with trimtab.checkpoint"].startswith("differs from step 6 on: the run")


def test_silent_on_a_counter_in_a_buffer(resume, make_build):
    class Buffered(Counting):
        def __init__(self):
            super().__init__()
            del self.calls
            self.register_buffer("calls", torch.zeros(()))

    assert resume(make_build(Buffered)).ok
    assert audit_resume(make_build(Buffered)).ok
