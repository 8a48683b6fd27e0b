import copy
import math
import struct

import pytest
import torch
from torch import nn

from trimtab.checkpoint import random_state
from trimtab.engine import TrainingSetup
from trimtab.engine._replay_bundle import parse_changes, replay_bundle, show
from trimtab.engine._update import Updater
from trimtab.errors import ConfigError, StateError
from trimtab.findings import Finding, Severity, Symptom
from trimtab.guard import _environment
from trimtab.guard._bundle import write_bundle
from trimtab.guard._change import Change
from trimtab.guard._incident import Experiment, Incident
from trimtab.optim import NormClip, grad_norms

START, BAD, END = 4, 9, 12
"""Steps done when the snapshot was taken, the one with the bad batch, and the last."""


def build(seed=0, *, width=16):
    """Return a network with dropout and BatchNorm: whatever is not restored shows."""
    torch.default_generator.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 1)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.99))
    return TrainingSetup(model, optimizer, nn.MSELoss(), [(torch.ones(2, 8), torch.ones(2, 1))])


def batches():
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(1, END + 1):
        x = torch.randn(32, 8, generator=generator)
        y = x.sum(dim=1, keepdim=True)
        found.append((x, y * 1e4 if number == BAD else y))
    return found


def train(setup, *, clip=None, name=lambda x, y: {"x": x, "y": y}):
    """Train as any loop does; return the snapshot and what was recorded of the steps after it."""
    model, optimizer, loss_fn = setup.model, setup.optimizer, setup.loss_fn
    snapshot, steps = None, []
    for number, (x, y) in enumerate(batches(), start=1):
        if number == START + 1:
            snapshot = copy.deepcopy(
                {
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict()],
                    "parts": {},
                    "random": random_state(),
                }
            )
        before = random_state()
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        norm = float(grad_norms(model.parameters()).total)
        if clip is None:
            optimizer.step()
        else:  # rounds otherwise than clip_grad_norm_
            Updater(optimizer, NormClip(clip), at_once=True).apply(divisor=1, loss=loss.detach())
        micro_step = {"batch": name(x, y), "weight": 32.0, "factor": 1.0, "random": before}
        micro_step |= {"loss": loss.detach(), "precision": "fp32", "dropped": False}
        settings = [{"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0}]
        recorded = {"number": number, "micro_steps": [micro_step], "settings": settings}
        recorded |= {"divisor": 1.0, "loss": loss.item(), "norm": norm}
        steps.append(recorded | {"skipped": False, "flagged": number == BAD})
    return snapshot, steps[START:]


def describe(steps, **changes):
    finding = Finding(
        code="TT512",
        name="bad-batch",
        severity=Severity.ERROR,
        symptom=Symptom.LOSS_SPIKE,
        what="the loss rose",
    )
    values = {
        "step": BAD,
        "detected": END,
        "kind": "rollback",
        "finding": finding,
        "action": "",
        "limits": {"loss_level": 8.0, "loss_limit": 40.0, "norm_limit": 400.0},
        "signals": {"step": [s["number"] for s in steps], "loss": [s["loss"] for s in steps]},
        "snapshot_step": START,
        "suspects": {"steps": [BAD]},
    }
    return Incident(**values | changes)


@pytest.fixture(autouse=True)
def random_kept():
    with torch.random.fork_rng():
        yield


@pytest.fixture
def record(tmp_path):
    def record(*, config=None, clip=None, **changes):
        snapshot, steps = train(build(), clip=clip, **changes)
        path = write_bundle(
            tmp_path, describe(steps), snapshot=snapshot, batches=steps, config=config
        )
        return path, steps

    return record


def bits(values):
    return [struct.pack("<d", value) for value in values]


def test_as_it_was_is_bit_for_bit_what_was_recorded(record):
    path, steps = record()

    (row,) = replay_bundle(path, build, seed=5)

    assert row.change.is_none
    assert row.steps == tuple(range(START + 1, END + 1))
    assert bits(row.losses) == bits(step["loss"] for step in steps)
    assert bits(row.norms) == bits(step["norm"] for step in steps)
    assert row.reproduced is True
    assert row.healed is False
    assert row.note == ""
    assert row.seconds > 0


def test_without_the_bad_batch_it_does_not_happen(record):
    path, _ = record()

    as_it_was, without, half = replay_bundle(
        path, build, changes=[Change(without=frozenset({BAD})), Change(lr=0.5)]
    )

    assert max(as_it_was.losses) > 1e6
    assert BAD not in without.steps
    assert max(without.losses) < 40
    assert without.healed
    assert without.probe < 40
    assert without.reproduced is None
    assert max(half.losses) > 1e6
    assert not half.healed
    # each began from the snapshot: until the change matters all are one
    assert bits(without.losses[:4]) == bits(as_it_was.losses[:4])


def test_the_run_was_clipped_and_so_is_its_replay(record):
    path, steps = record(config={"clip": 0.5}, clip=0.5)

    (row,) = replay_bundle(path, build)

    assert row.reproduced
    assert bits(row.losses) == bits(step["loss"] for step in steps)


def test_a_clipper_can_be_given(record):
    path, _ = record(clip=0.5)

    (given,) = replay_bundle(path, build, clipper=NormClip(0.5))
    (without,) = replay_bundle(path, build)

    assert given.reproduced
    assert not without.reproduced
    assert without.note == f"differs from the record from step {START + 2} on"


def test_a_difference_names_that_of_the_environments(record, monkeypatch):
    path, _ = record(clip=0.5)
    monkeypatch.setattr(_environment.platform, "python_version", lambda: "4.0")

    (row,) = replay_bundle(path, build)

    assert row.note.startswith(f"differs from the record from step {START + 2} on: python 3.")
    assert row.note.endswith(" there, 4.0 here")


def test_random_states_are_put_back(record):
    path, _ = record()
    before = torch.get_rng_state()

    replay_bundle(path, build)

    assert torch.equal(torch.get_rng_state(), before)


def test_the_schedule_is_restored_too(tmp_path):
    def scheduled(seed):
        setup = build(seed)
        setup.scheduler = torch.optim.lr_scheduler.StepLR(setup.optimizer, 2)
        built.append(setup)
        return setup

    built = []
    snapshot, steps = train(build())
    scheduler = scheduled(0).scheduler
    scheduler.last_epoch = START
    snapshot["parts"] = {"schedule": scheduler.state_dict()}
    path = write_bundle(tmp_path, describe(steps), snapshot=snapshot, batches=steps)

    (row,) = replay_bundle(path, scheduled)

    assert row.reproduced  # each step has the learning rate that was recorded
    assert built[-1].scheduler.last_epoch == END


def with_pair(x, y):
    return {"batch": (x, y)}


def with_names(x, y):
    return {"inputs": {"input": x}, "y": y}


def with_places(x, y):
    return {"inputs": [x], "y": y}


@pytest.mark.parametrize("name", [with_pair, with_names, with_places])
def test_batches_are_pairs_of_many_kinds(record, name):
    path, _ = record(name=name)

    (row,) = replay_bundle(path, build)

    assert row.reproduced


def three(x, y):
    return {"x": x, "y": y, "extra": x[:1]}


def test_another_batch_is_computed_by_the_user(record):
    path, _ = record(name=three)

    def compute(model, batch):
        return nn.functional.mse_loss(model(batch["x"]), batch["y"])

    def with_attribute(seed):
        setup = build(seed)
        setup.loss_fn.compute = compute
        return setup

    with pytest.raises(StateError) as caught:
        replay_bundle(path, build)
    assert str(caught.value) == (
        "The recorded batch is no pair of input and target, it is x, y, extra. Pass "
        "compute=lambda model, batch: loss, or give the loss function of your setup an attribute "
        "`compute` that does this."
    )
    assert replay_bundle(path, build, compute=compute)[0].reproduced
    assert replay_bundle(path, with_attribute)[0].reproduced


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda seed: build(seed, width=8),
            "'0.weight' is (16, 8) in the incident and (8, 8) in what build returned. Build the "
            "model of the run.",
        ),
        (
            lambda seed: replace_model(build(seed), nn.Linear(8, 1)),
            "Only the incident has a tensor '0.bias'. Build the model of the run.",
        ),
        (
            lambda seed: replace_optimizer(build(seed)),
            "The optimizer that build returned does not fit the incident: loaded state dict "
            "contains a parameter group that doesn't match the size of optimizer's group. Build "
            "the optimizer of the run, over the same groups of parameters.",
        ),
    ],
)
def test_another_model_is_refused(record, other, message):
    path, _ = record()

    with pytest.raises(StateError) as caught:
        replay_bundle(path, other)

    assert str(caught.value) == message


def replace_model(setup, model):
    setup.model, setup.optimizer = model, torch.optim.Adam(model.parameters())
    return setup


def replace_optimizer(setup):
    setup.optimizer = torch.optim.Adam([setup.model[0].weight])
    return setup


def test_build_has_to_return_a_setup(record):
    path, _ = record()

    with pytest.raises(ConfigError, match="build must return a TrainingSetup, got Linear"):
        replay_bundle(path, lambda seed: nn.Linear(1, 1))


@pytest.mark.parametrize(("left_out", "empty"), [("snapshot", None), ("batches", ())])
def test_a_report_alone_cannot_be_replayed(tmp_path, left_out, empty):
    snapshot, steps = train(build())
    parts = {"snapshot": snapshot, "batches": steps} | {left_out: empty}
    path = write_bundle(tmp_path, describe(steps), **parts)

    with pytest.raises(StateError, match="holds no snapshot or no batches, so there is nothing to"):
        replay_bundle(path, build)


def test_a_batch_that_was_not_saved_is_named(tmp_path):
    snapshot, steps = train(build())
    steps[0]["micro_steps"][0]["batch"] = object()
    path = write_bundle(tmp_path, describe(steps), snapshot=snapshot, batches=steps)

    with pytest.raises(StateError, match="holds no batch for one of its steps"):
        replay_bundle(path, build)


def test_without_good_steps_before_it_nothing_is_probed(tmp_path):
    snapshot, steps = train(build())
    incident = describe(steps, step=START + 1)
    path = write_bundle(tmp_path, incident, snapshot=snapshot, batches=steps)

    (row,) = replay_bundle(path, build)

    assert math.isnan(row.probe)
    assert not row.healed


def test_changes_are_read_from_words():
    assert parse_changes([["lr=0.5", "precision=fp32"], ["without=7"]]) == [
        Change(lr=0.5, precision="fp32"),
        Change(without=frozenset({7})),
    ]
    with pytest.raises(ConfigError) as caught:
        parse_changes([["lr=0.5", "runs/incident"]])
    assert str(caught.value) == (
        "A change has to be NAME=VALUE, such as lr=0.5; got 'runs/incident'."
    )


def row(**changes):
    values = {"change": Change(), "steps": (1, 2), "losses": (1.0, math.nan), "norms": (1.0, 1.0)}
    values |= {"probe": math.nan, "healed": False, "reproduced": True, "seconds": 1.25}
    return Experiment(**values | changes)


def test_replays_are_shown_as_a_table():
    rows = [
        row(),
        row(change=Change(without=frozenset({2})), losses=(1.0,), healed=True, reproduced=None),
        row(reproduced=False, note="differs from the record from step 1 on", losses=()),
    ]

    assert show(rows) == (
        "replayed with               the incident                     last loss"
        "  healthy batches   took\n"
        "as it was                   happened again, bit for bit            nan"
        "             none  1.2 s\n"
        "without the data of step 2  did not happen                           1"
        "             none  1.2 s\n"
        "as it was                   happened again, not as recorded       none"
        "             none  1.2 s  (differs from the record from step 1 on)"
    )
