import cProfile
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from trimtab import optim
from trimtab.diagnosis._trace import Event, Trace, modal_layers


def kinds(trace, call=1):
    return [e.kind for e in trace.events if e.call == call]


def test_notes_the_order_of_calls_and_their_lines(env, watch, line_of):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scheduler = torch.optim.lr_scheduler.StepLR(env.optimizer, 5)

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 2.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        return loss

    trace = watch(body)

    assert kinds(trace) == [
        *("zero", "forward", "loss", "scale", "backward", "unscale", "clip", "attempt", "step"),
        *("update", "schedule"),
    ]
    first = {e.kind: e for e in trace.events if e.call == 1}
    where = {
        "zero": "zero_grad",
        "scale": "scaler.scale",
        "backward": "backward",
        "unscale": "unscale_",
        "clip": "clip_grad_norm_",
        "attempt": "scaler.step",
        "step": "scaler.step",
        "update": "scaler.update",
        "schedule": "scheduler.step",
    }
    for kind, text in where.items():
        assert (first[kind].file, first[kind].line) == (__file__, line_of(body, text)), kind
    loss = first["loss"].facts["value"]
    assert first["backward"].facts == {
        "value": pytest.approx(8 * loss),
        "dirty": False,
        "reached": True,
    }
    assert first["scale"].facts == {"scale": 8.0}
    clipped = first["clip"].facts
    assert clipped["threshold"] == 2.0
    assert clipped["after"] == pytest.approx(min(clipped["before"], 2.0), rel=1e-4)
    assert first["forward"].facts == {"size": (16, 128), "training": True, "fp16": False}
    assert first["step"].facts == {
        "has_gradients": True,
        "changed_by_hand": False,
        "removed": False,
    }


@pytest.mark.parametrize(
    "clip", [optim.clip_grad_norm_, nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_]
)
def test_sees_every_clipping_once(watch, clip):
    def body(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        loss.backward()
        clip(model.parameters(), 0.5)
        return loss

    assert kinds(watch(body)) == ["forward", "loss", "backward", "clip"]


@pytest.mark.parametrize("by", ["optimizer", "model"])
def test_sees_clearing_by_the_optimizer_and_by_the_model(watch, by):
    def body(model, optimizer, loss_fn, x, y):
        (optimizer if by == "optimizer" else model).zero_grad()
        return loss_fn(model(x), y)

    assert kinds(watch(body)) == ["zero", "forward", "loss"]


def test_passes_over_other_models_optimizers_and_schedules(watch, make_model, correct):
    other = make_model()
    theirs = torch.optim.SGD(other.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(theirs, 5)
    scaler = torch.amp.GradScaler("cpu")

    def body(model, optimizer, loss_fn, x, y):
        theirs.zero_grad()
        scaler.scale(other(x).sum()).backward()
        scaler.unscale_(theirs)
        scaler.step(theirs)
        scaler.update()
        other.zero_grad()
        scheduler.step()
        return correct(model, optimizer, loss_fn, x, y)

    trace = watch(body)

    assert kinds(trace)[:3] == ["scale", "backward", "update"]
    assert kinds(trace)[3:] == ["zero", "forward", "loss", "backward", "step"]
    reached = [e.facts["reached"] for e in trace.events if e.kind == "backward"]
    assert reached[:2] == [False, True]


def test_passes_over_a_scaler_that_is_off_and_passes_without_gradients(watch):
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def body(model, optimizer, loss_fn, x, y):
        with torch.no_grad():
            model(x)
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    assert kinds(watch(body)) == ["forward", "loss", "backward", "step"]


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda p: None, (True, False, False)),
        (lambda p: p.grad.data.mul_(0.5), (True, True, False)),
        (lambda p: p.grad.zero_(), (False, True, True)),
        (lambda p: setattr(p, "grad", None), (False, True, True)),
    ],
)
def test_knows_what_was_done_to_gradients_by_hand(watch, change, facts):
    def body(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        loss.backward()
        for p in model.parameters():
            change(p)
        optimizer.step()
        return loss

    step = next(e for e in watch(body).events if e.kind == "step")

    assert tuple(step.facts.values()) == facts


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
@pytest.mark.parametrize(
    "retain", [{"retain_graph": True}, {"create_graph": True}, {"inputs": None}], ids=str
)
def test_counts_a_backward_pass_once(watch, retain):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        given = {k: list(model.parameters()) if v is None else v for k, v in retain.items()}
        loss.backward(**given)
        optimizer.step()
        model.zero_grad()
        return loss.detach()

    trace = watch(body)

    assert kinds(trace) == ["zero", "forward", "loss", "backward", "step", "zero"]
    assert all(e.facts["reached"] for e in trace.events if e.kind == "backward")


def test_stops_watching_when_the_order_is_known(run, correct):
    log = run(correct)

    assert (log.trace.calls, log.num_steps, log.trace.num_steps) == (8, 12, 12)
    assert sys.getprofile() is None


def test_leaves_no_hooks_behind_and_the_profile_as_it_was(env, make_model, pairs, correct):
    seen = []

    def profiler(frame, event, arg):
        seen.append(event)

    trace = Trace(env.model, env.optimizer)

    def fail():
        with trace.watch(1, (16, 128)):
            correct(env.model, env.optimizer, env.loss_fn, *pairs[0])
            raise ZeroDivisionError

    sys.setprofile(profiler)
    try:
        with pytest.raises(ZeroDivisionError):
            fail()
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)

    assert kinds(trace) == ["zero", "forward", "backward", "step"]
    assert not env.model._forward_pre_hooks
    assert not env.optimizer._optimizer_step_pre_hooks


def test_leaves_cprofile_on(env, pairs, correct):
    profile = cProfile.Profile()
    x, y = pairs[0]
    profile.enable()
    try:
        with Trace(env.model, env.optimizer).watch(1, (16, 128)):
            correct(env.model, env.optimizer, env.loss_fn, x, y)
        torch.nn.functional.linear(x, x)
        correct(env.model, env.optimizer, env.loss_fn, x, y)
    finally:
        profile.disable()

    assert any("correct" in str(entry.code) for entry in profile.getstats())


def test_changes_nothing_of_the_run(env, watch, make_model, correct, pairs):
    twin = make_model()
    twin.load_state_dict(env.model.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    state = torch.get_rng_state()
    watch(correct)
    torch.set_rng_state(state)

    for x, y in pairs:
        correct(twin, optimizer, env.loss_fn, x, y)

    for ours, theirs in zip(env.model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_code_without_a_file_has_no_line(watch):
    scope: dict = {}
    exec(
        "def body(m, o, f, x, y):\n    loss = f(m(x), y)\n    loss.backward()\n    o.step()", scope
    )

    events = watch(scope["body"]).events

    assert {(e.file, e.line) for e in events} == {(None, None)}


def test_layers_with_modes():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.plain = nn.BatchNorm1d(4, track_running_stats=False)
            self.drop = nn.Dropout(0.1)
            self.off = nn.Dropout(0.0)
            self.frozen = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).requires_grad_(False)
            self.rnn = nn.GRU(4, 4, num_layers=2, dropout=0.3)

    assert list(modal_layers(Wrapped())) == ["norm", "drop", "rnn"]


def test_events_are_plain():
    event = Event("step", 3)

    assert (event.file, event.line, event.facts) == (None, None, {})
    assert isinstance(event.facts, dict | types.MappingProxyType)
