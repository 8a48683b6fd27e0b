import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.audit import audit_resume
from trimtab.engine import TrainingSetup
from trimtab.errors import ConfigError, StateError
from trimtab.findings import Selection

SOUND = {
    "Adam": [],
    "dropout": [lambda: nn.Dropout(0.5)],
    "BatchNorm": [lambda: nn.BatchNorm1d(8)],
}


def names(audit):
    return [finding.name for finding in audit.findings]


@pytest.mark.parametrize("layers", SOUND.values(), ids=SOUND)
def test_a_run_that_is_saved_whole_resumes(resume, make_build, layers):
    audit = resume(make_build(*layers))

    assert audit.ok, str(audit)
    assert dict(audit.facts) == {
        "steps": 10,
        "interrupted after": 5,
        "result": "every batch, loss and weight after resuming is equal bit for bit",
    }


def test_without_state_there_is_nothing_to_forget(resume, make_build):
    plain = make_build(optimizer=lambda p: torch.optim.SGD(p, lr=0.1), schedule=False)

    assert resume(plain, without=["optimizer", "random"]).ok


FORGOTTEN = {
    "model": ["weights-not-resumed"],
    "optimizer": ["optimizer-not-resumed"],
    "scheduler": ["schedule-not-resumed"],
    "random": ["random-state-not-resumed"],
    "batches": ["data-not-resumed"],
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_names_exactly_what_was_forgotten(resume, make_build, what):
    audit = resume(make_build(lambda: nn.Dropout(0.5)), without=[what])

    assert names(audit) == FORGOTTEN[what]
    first = 7 if what == "scheduler" else 6  # the optimizer holds the rate of the next step
    assert audit.facts["result"] == f"the resumed run differs from step {first} on"
    assert audit.facts["with trimtab.checkpoint"] == "equal bit for bit, given the same batches"


def test_names_all_that_was_forgotten(resume, make_build):
    audit = resume(make_build(lambda: nn.Dropout(0.5)), without=["optimizer", "random", "batches"])

    assert names(audit) == ["optimizer-not-resumed", "data-not-resumed", "random-state-not-resumed"]


def shuffled():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=8, shuffle=True)


def test_what_most_loops_save_loses_random_state_and_data(make_build):
    audit = audit_resume(make_build(lambda: nn.Dropout(0.5), batches=shuffled))

    assert names(audit) == ["data-not-resumed", "random-state-not-resumed"]


def test_it_is_enough_where_nothing_is_random(make_build, positioned, drawn):
    assert audit_resume(make_build()).ok


@pytest.mark.parametrize(("length", "stop"), [(5, 4), (7, 5), (1, 5), (2, 5)], ids=str)
def test_it_is_not_interrupted_where_an_epoch_ends(make_build, drawn, length, stop):
    audit = audit_resume(
        make_build(batches=lambda: drawn(0, length)), steps=10 if length != 2 else 11
    )

    assert audit.facts["interrupted after"] == stop
    assert names(audit) == ([] if length == 1 else ["data-not-resumed"])


def own_loop(setup, num_steps, folder, *, faulty=False):
    """Somebody's own training function."""
    path, begin = folder / "state.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=False)
        setup.model.load_state_dict(state["model"])
        if not faulty:
            setup.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        begin = state["step"]
    for step in range(begin, num_steps):
        x, y = setup.batches.data[step % len(setup.batches)]
        setup.optimizer.zero_grad()
        setup.loss_fn(setup.model(x), y).backward()
        setup.optimizer.step()
    parts = {"model": setup.model.state_dict(), "optimizer": setup.optimizer.state_dict()}
    torch.save(parts | {"random": torch.get_rng_state(), "step": num_steps}, path)


def test_a_whole_training_function_is_watched(make_build):
    build = make_build(lambda: nn.Dropout(0.5), schedule=False)

    assert audit_resume(build, run=own_loop).ok
    audit = audit_resume(build, run=lambda *args: own_loop(*args, faulty=True))
    assert names(audit) == ["optimizer-not-resumed"]
    assert "with trimtab.checkpoint" not in audit.facts


def test_a_function_that_does_not_train_is_refused(make_build):
    with pytest.raises(StateError, match="The run made 0 optimizer steps and should be interr"):
        audit_resume(make_build(), run=lambda setup, num_steps, folder: None)


def words():
    return np.random.get_state()[1].tolist()  # noqa: NPY002 # as below


def test_random_states_are_put_back(make_build):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 # the state under test
    before = torch.get_rng_state(), random.getstate(), words()

    audit_resume(make_build(lambda: nn.Dropout(0.5)))

    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), words())


def test_rules_are_selected(resume, make_build):
    build = make_build()

    audit = resume(build, without=["optimizer"], selection=Selection(ignore=("TT803",)))

    assert audit.ok
    assert audit.facts["result"] == "the resumed run differs from step 6 on"


def test_what_a_global_function_keeps_is_begun_anew(make_build):
    """The same loss scaler serves all sessions of the audit."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=2)

    def step(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    audit = audit_resume(make_build(train_step=lambda: step))

    assert names(audit) == ["hidden-state-not-resumed"]
    assert scaler.get_scale() == 2.0


WRONG = [
    ({"build": 3}, "build must be a function, got int"),
    ({"save": len}, "save was given without load. Pass both, or neither"),
    ({"load": len}, "load was given without save. Pass both, or neither"),
    ({"save": len, "load": len, "run": len}, "run saves and loads by itself"),
    ({"run": "x"}, "run must be a function, got str"),
    ({"steps": 1}, "steps must be a whole number of at least 2, got 1"),
    ({"steps": True}, "steps must be a whole number of at least 2, got True"),
    ({"stop": 10}, "stop must be a whole number of at least 1 and below steps .10., got 10"),
    ({"stop": 0}, "stop must be a whole number of at least 1"),
    ({"build": lambda seed: 3}, "must return a trimtab.engine.TrainingSetup, got int"),
    ({"save": lambda s: (i for i in "ab"), "load": print}, "cannot be written by torch.save"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[m[:20] for _, m in WRONG])
def test_refuses_what_cannot_work(make_build, changes, message):
    with pytest.raises(ConfigError, match=message):
        audit_resume(**({"build": make_build()} | changes))


def test_a_schedule_that_the_loop_moves_is_moved_once(drawn, whole_state):
    def build(seed):
        torch.default_generator.manual_seed(seed)
        model = nn.Linear(6, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)

        def step(model, optimizer, loss_fn, x, y):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            return loss

        built.append(scheduler)
        batches = drawn(0, 1)
        return TrainingSetup(model, optimizer, nn.CrossEntropyLoss(), batches, scheduler, step)

    built = []
    assert audit_resume(build, steps=6).ok
    assert [s.last_epoch for s in built] == [6, 3, 6]


def test_an_error_after_loading_does_not_hide_its_cause(resume, make_build, whole_state):
    save, _ = whole_state

    def partly(setup):
        state = save(setup)
        del state["optimizer"]["state"][3]["exp_avg"]
        return state

    audit = resume(make_build(), save=partly)

    assert names(audit) == ["optimizer-not-resumed"]
    assert audit.facts["the resumed run raised"] == "KeyError: 'exp_avg'"


def test_an_error_in_loading_is_the_users(make_build):
    def load(setup, state):
        raise ZeroDivisionError("in load")

    with pytest.raises(ZeroDivisionError, match="in load"):
        audit_resume(make_build(), save=lambda setup: {}, load=load)
