import pytest
import torch

from trimtab.audit import StepsNotResumed, audit_resume
from trimtab.findings import Evidence


def loop(begin_at):
    """Return a training function; `begin_at` tells where it begins after loading."""

    def run(setup, num_steps, folder):
        path, begin = folder / "state.pt", 0
        if path.exists():
            steps, model, optimizer = torch.load(path)
            setup.model.load_state_dict(model)
            setup.optimizer.load_state_dict(optimizer)
            begin = begin_at(steps, num_steps)
        x, y = setup.batches.data[0]
        for _ in range(begin, num_steps):
            setup.optimizer.zero_grad()
            setup.loss_fn(setup.model(x), y).backward()
            setup.optimizer.step()
        state = setup.model.state_dict(), setup.optimizer.state_dict()
        torch.save((num_steps, *state), path)

    return run


@pytest.mark.parametrize(
    ("begin", "made", "more"),
    [
        (lambda *_: 0, 10, ": it began anew"),
        (lambda _, num: num, 0, ""),
        (lambda s, _: s - 1, 6, ""),
    ],
    ids=["anew", "finished", "one too many"],
)
def test_fires_on_another_number_of_steps(make_build, begin, made, more):
    (found,) = audit_resume(make_build(schedule=False), run=loop(begin)).findings

    assert found == StepsNotResumed().finding(
        what=f"the resumed run made {made} optimizer steps, but 5 were left{more}",
        step=6,
        evidence=(Evidence(name="steps after resuming", value=made, normal="5"),),
        cause="the number of the step was not saved or not loaded",
        fix="save the number of steps made, and begin the loop there after loading",
    )


def test_silent_on_a_loop_that_goes_on(make_build):
    assert audit_resume(make_build(schedule=False), run=loop(lambda steps, _: steps)).ok
