import random

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from trimtab.audit import RandomStateNotResumed, audit_resume
from trimtab.audit.tt806_random_state_not_resumed import _LOST, _MOVED
from trimtab.findings import Evidence


def whole(what, words, whose="torch"):
    return RandomStateNotResumed().finding(
        what=f"{what} steps draw from the random state of {whose}, which is not what it was",
        site=whose,
        step=6,
        evidence=(Evidence(name="random states that differ", value=1, normal="0"),),
        cause=words[0],
        fix=words[1],
    )


def dropout():
    return nn.Dropout(0.5)


def test_fires_on_dropout(resume, make_build):
    assert resume(make_build(dropout), without=["random"]).findings == [whole("5 of 5", _LOST)]
    assert "random state was not saved" in _LOST[0]
    assert "dropout" in _LOST[0]


def test_names_whose_state_it_is(resume, make_build):
    class Noisy(nn.Module):
        def forward(self, x):
            return x + random.random()

    found = resume(make_build(Noisy), without=["random"]).findings

    assert found == [whole("5 of 5", _LOST, "Python")]


def test_silent_where_nothing_is_drawn(resume, make_build):
    assert resume(make_build(), without=["random"]).ok


def test_silent_where_it_is_saved(resume, make_build):
    assert resume(make_build(dropout)).ok


@pytest.mark.parametrize("own", [False, True])
def test_tells_a_loader_that_draws_when_it_begins(resume, make_build, drawn, own):
    """A DataLoader takes a seed for its workers from the global state, shuffled or not."""
    pair = drawn(0, 1)[0]

    def loader():
        generator = torch.Generator() if own else None
        return DataLoader([pair] * 40, batch_size=None, generator=generator)

    found = resume(make_build(dropout, batches=loader)).findings

    assert found == ([] if own else [whole("5 of 5", _MOVED)])


@pytest.mark.parametrize("saved", [False, True])
def test_a_function_that_does_all_is_judged_at_its_first_step(make_build, saved):
    def run(setup, num_steps, folder):
        path, begin = folder / "state.pt", 0
        if path.exists():
            begin, model, state = torch.load(path)
            setup.model.load_state_dict(model)
            if saved:
                torch.set_rng_state(state)
        for x, y in setup.batches.data[begin:num_steps]:
            setup.optimizer.zero_grad()
            setup.loss_fn(setup.model(x), y).backward()
            setup.optimizer.step()
        torch.save((num_steps, setup.model.state_dict(), torch.get_rng_state()), path)

    build = make_build(dropout, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), schedule=False)
    found = audit_resume(build, run=run, steps=6).findings

    assert found == ([] if saved else [whole("3 of 3", _LOST).with_(step=4)])
