import functools
import math
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from trimtab.diagnosis._job import BROKEN, Job, Watched, plain_step
from trimtab.errors import StabilityWarning
from trimtab.rules import Judge
from trimtab.signals import NonfiniteSource


def run_all(env, body=None, calls=12, **settings):
    """Run a loop body without raising what it raises."""
    job = Job(env.model, env.optimizer, env.loss_fn, env.scheduler, body)
    given = [env.pairs[i % len(env.pairs)] for i in range(calls)]
    watched = Watched(job, **settings)
    return watched.run(given, every=1)


# Losses.


@pytest.mark.parametrize("judged", [False, True])
def test_plain_step_is_the_loop_that_anybody_writes(env, make_model, judged):
    twin = make_model()
    twin.load_state_dict(env.model.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for model in (env.model, twin):
        model[1].p = 0.0

    log = run_all(env, judge=Judge(rules=[]) if judged else None)

    losses = []
    for x, y in env.pairs:
        optimizer.zero_grad()
        loss = env.loss_fn(twin(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert log.losses == losses
    assert log.num_steps == 12
    assert all(
        torch.equal(a, b) for a, b in zip(env.model.parameters(), twin.parameters(), strict=True)
    )
    assert len(log.records) == (12 if judged else 0)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (lambda loss: loss, "own"),
        (lambda loss: loss.item(), "own"),
        (lambda loss: None, "own"),
        (lambda loss: {"loss": loss}, "own"),
        (lambda loss: True, "own"),
        (lambda loss: loss * 0 + 5, 5.0),
        (lambda loss: 7, 7.0),
    ],
)
def test_takes_the_loss_that_is_returned_else_that_of_the_loss_function(
    env, run, correct, returned, expected
):
    seen = []

    def body(*args):
        loss = correct(*args)
        seen.append(loss.item())
        return returned(loss)

    log = run(body)

    assert log.losses == (seen if expected == "own" else [expected] * 12)


def test_a_loop_without_any_loss_has_nan_and_goes_on(env, run):
    log = run(lambda model, optimizer, loss_fn, x, y: model(x).sum().backward())

    assert len(log.losses) == 12
    assert all(math.isnan(v) for v in log.losses)
    assert log.nonfinite_call is None


def test_records_hold_losses_and_batches(env, correct):
    judge = Judge(rules=[])
    log = run_all(env, correct, judge=judge)

    assert [r.values["loss"] for r in log.records] == pytest.approx(log.losses)
    x, y = env.pairs[3]
    assert log.records[3].values["input.mean"] == pytest.approx(float(x.double().mean()))
    assert log.records[3].values["target.max"] == float(y.max())
    assert judge.history.order[0] == "0"
    assert log.info["model"]["num_parameters"] == sum(p.numel() for p in env.model.parameters())


def test_stability_warnings_of_other_parts_are_kept_quiet(env, run, correct):
    def body(*args):
        warnings.warn("a setting", StabilityWarning, stacklevel=1)
        return correct(*args)

    assert len(run(body).losses) == 12


# NaN.


def breaks_in_call(call, correct):
    calls = iter(range(1, 1000))

    def body(model, optimizer, loss_fn, x, y):
        if next(calls) == call:
            with torch.no_grad():
                model[3].weight[0, 0] = math.nan
        return correct(model, optimizer, loss_fn, x, y)

    return body


@pytest.mark.parametrize("as_module", [False, True])
def test_names_the_first_place_that_is_not_finite_and_stops(env, correct, as_module):
    if not as_module:
        env.loss_fn = nn.functional.cross_entropy

    log = run_all(env, breaks_in_call(3, correct), calls=40)

    assert log.nonfinite_call == 3
    assert log.nonfinite == NonfiniteSource(kind="parameter", site="3.weight")
    assert len(log.losses) == 2 + BROKEN
    assert not any(math.isnan(v) for v in log.losses[:2])


def test_names_the_row_of_a_batch(env, run):
    env.pairs[1][0][5, 2] = math.nan

    log = run(None)

    assert log.nonfinite_call == 2
    assert (log.nonfinite.kind, log.nonfinite.site, log.nonfinite.row) == ("input", "input", 5)


def test_does_not_place_what_is_seen_too_late(env, run, correct):
    def body(*args):
        return correct(*args) * math.nan

    log = run(body, calls=40)

    assert (log.nonfinite_call, log.nonfinite, len(log.losses)) == (1, None, BROKEN)


def test_a_few_broken_losses_do_not_end_the_run(env, run, correct):
    calls = iter(range(1000))

    def body(*args):
        return correct(*args) * (math.nan if next(calls) % 3 else 1)

    assert len(run(body, calls=30).losses) == 30


class RunsOnce(nn.Linear):
    """Cannot be run outside of training."""

    def forward(self, x):
        if not torch.is_grad_enabled():
            raise RuntimeError("not now")
        return super().forward(x)


def test_a_model_that_cannot_be_run_again_is_no_fault_of_the_loop(env, run, correct):
    env.model = RunsOnce(8, 3)
    env.optimizer = torch.optim.SGD(env.model.parameters(), lr=0.1)
    env.loss_fn = lambda output, y: nn.functional.cross_entropy(output, y) * math.inf

    log = run(correct)

    assert (log.error, log.nonfinite_call, log.nonfinite) == (None, 1, None)


# Errors.


def fails(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    raise KeyError("of mine")
    return loss


class Misshapen(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(9, 3)

    def forward(self, x):
        return self.layer(x)  # wants 9 features


def test_an_error_ends_the_run_and_names_the_line(env, line_of):
    log = run_all(env, fails, traced=True, judge=Judge(rules=[]))

    assert isinstance(log.error, KeyError)
    assert log.error_place == (__file__, line_of(fails, "raise"))
    assert log.losses == []


def test_an_error_inside_of_torch_names_the_line_that_led_there(env, line_of):
    env.model = Misshapen()
    env.optimizer = torch.optim.SGD(env.model.parameters(), lr=0.1)

    log = run_all(env)

    assert isinstance(log.error, RuntimeError)
    assert log.error_place == (__file__, line_of(Misshapen, "self.layer(x)"))


def test_an_error_without_a_line_of_the_users(env):
    env.model = nn.Linear(9, 3)
    env.optimizer = torch.optim.SGD(env.model.parameters(), lr=0.1)

    log = run_all(env)

    assert isinstance(log.error, RuntimeError)
    assert log.error_place is None


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_leaves_no_hooks_behind(env, correct, error):
    calls = iter(range(1000))

    def body(*args):
        if error is not None and next(calls) == 3:
            raise error
        return correct(*args)

    def go():
        return run_all(env, body, judge=Judge(rules=[]), traced=True)

    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            go()
    else:
        assert type(go().error) is (error or type(None))

    for module in [*env.model.modules(), env.loss_fn]:
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    assert not env.optimizer._optimizer_step_pre_hooks
    assert not env.optimizer._optimizer_step_post_hooks


def test_leaves_no_hooks_behind_where_it_cannot_begin(env, correct):
    import trimtab
    from trimtab.errors import StateError

    with trimtab.attach(env.model, env.optimizer, out=None):
        count = len(env.optimizer._optimizer_step_post_hooks), len(env.model._forward_hooks)
        with pytest.raises(StateError, match="attached already"):
            run_all(env, correct, judge=Judge(rules=[]))
        assert count == (
            len(env.optimizer._optimizer_step_post_hooks),
            len(env.model._forward_hooks),
        )


def test_an_optimizer_of_other_parameters_is_watched_without_signals(env, correct):
    env.optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)

    log = run_all(env, correct, judge=Judge(rules=[]))

    assert (len(log.losses), log.num_steps, log.records) == (12, 12, [])


# Optimizers and schedules.


def test_lbfgs_learns(env, run):
    env.model[1].p = 0.0
    env.optimizer = torch.optim.LBFGS(env.model.parameters(), max_iter=4)

    log = run(None, attached=True, pairs=env.pairs[:1], calls=12)

    assert log.num_steps == 12
    assert log.losses[-1] < 0.5 * log.losses[0]


def schedule(env, kind="StepLR"):
    made = {
        "StepLR": lambda o: schedules.StepLR(o, 1, gamma=0.5),
        "ChainedScheduler": lambda o: schedules.ChainedScheduler(
            [schedules.StepLR(o, 1, gamma=0.5)]
        ),
        "SequentialLR": lambda o: schedules.SequentialLR(
            o,
            [schedules.ExponentialLR(o, 0.5), schedules.ExponentialLR(o, 0.5)],
            [50],
        ),
        "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(
            o, factor=0.5, patience=0, threshold=1e9, mode="min", cooldown=0
        ),
    }
    env.scheduler = made[kind](env.optimizer)
    return env.scheduler


def rate(env):
    return env.optimizer.param_groups[0]["lr"]


KINDS = ["StepLR", "ChainedScheduler", "SequentialLR"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [False, True])
def test_moves_the_schedule_once_a_step(env, run, correct, kind, own):
    schedule(env, kind)

    run(correct if own else None, calls=5)

    assert rate(env) == pytest.approx(0.1 * 0.5**5)


def test_moves_a_plateau_schedule_by_the_loss(env, run):
    schedule(env, "ReduceLROnPlateau")

    run(None, calls=5)

    assert env.scheduler.last_epoch == 5
    assert rate(env) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_does_not_move_a_schedule_that_the_loop_moves(env, run, correct, kind):
    scheduler = schedule(env, kind)

    def body(*args):
        loss = correct(*args)
        scheduler.step()
        return loss

    run(body, calls=5)

    assert rate(env) == pytest.approx(0.1 * 0.5**5)


class Trainer:
    def __init__(self, scheduler, correct):
        self.scheduler, self.correct, self.calls = scheduler, correct, 0

    def __call__(self, *args):
        loss = self.correct(*args)
        self.calls += 1
        if self.calls % 4 == 0:
            self.scheduler.step()
        return loss

    def step(self, *args):
        return self(*args)


def with_argument(scheduler, calls, correct, *args):
    loss = correct(*args)
    if next(calls) % 4 == 0:
        scheduler.step()
    return loss


def once_an_epoch(how, scheduler, correct):
    if how == "object":
        return Trainer(scheduler, correct)
    if how == "method":
        return Trainer(scheduler, correct).step
    if how == "partial":
        return functools.partial(with_argument, scheduler, iter(range(1, 99)), correct)
    if how == "attribute of a closure":
        trainer = Trainer(scheduler, correct)

        def body(*args):
            return trainer.step(*args)

        return body
    if how == "default":
        calls = iter(range(1, 99))
        return lambda m, o, f, x, y, s=scheduler: with_argument(s, calls, correct, m, o, f, x, y)
    calls = iter(range(1, 99))
    hidden = {"deep": {"down": scheduler}}
    if how == "unseen":
        return lambda *args: with_argument(hidden["deep"]["down"], calls, correct, *args)
    return lambda *args: with_argument(scheduler, calls, correct, *args)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how", ["closure", "object", "method", "partial", "attribute of a closure", "default"]
)
def test_leaves_a_schedule_of_epochs_to_the_loop(env, run, correct, kind, how):
    body = once_an_epoch(how, schedule(env, kind), correct)

    run(body, calls=10)

    assert rate(env) == pytest.approx(0.1 * 0.5**2)


def test_stops_moving_a_schedule_when_it_moves_by_itself(env, run, correct):
    body = once_an_epoch("unseen", schedule(env), correct)

    run(body, calls=10)

    assert env.scheduler.last_epoch == 3 + 2  # three by us, then one in the fourth and eighth call


def test_a_call_without_a_step_moves_no_schedule(env, run):
    schedule(env)
    calls = iter(range(1, 1000))

    def body(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        (loss / 4).backward()
        if next(calls) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    run(body, calls=9)

    assert env.scheduler.last_epoch == 2


# What the loss function was given.


@pytest.mark.parametrize(
    ("call", "supervised"),
    [
        (lambda f, out, y: f(out, y), True),
        (lambda f, out, y: f(input=out, target=y), True),
        (lambda f, out, y: f(out.float(), y.clone()), True),
        (lambda f, out, y: f(out, y) + 0.1 * out.square().mean(), True),
        (lambda f, out, y: f(out.log_softmax(1), y), False),
        (lambda f, out, y: f(out, (y + 1) % 3), False),
        (lambda f, out, y: f(out[:8], y[:8]), False),
        (lambda f, out, y: f(out, out.softmax(1).detach()), False),
    ],
)
@pytest.mark.parametrize("as_module", [False, True])
def test_knows_whether_the_loss_is_that_of_outputs_and_targets(
    env, run, call, supervised, as_module
):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = call(loss_fn, model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    if not as_module:
        env.loss_fn = nn.functional.cross_entropy

    assert run(body, calls=2).supervised is supervised


@pytest.mark.parametrize(
    ("call", "supervised"),
    [
        (lambda f, out, y: f(out, y), True),
        (lambda f, out, y: f(out.squeeze(1), y.squeeze(1)), False),
        (lambda f, out, y: f(out, y[:, 0].unsqueeze(1)), True),
    ],
)
def test_a_reshaped_answer_is_another(env, run, make_model, call, supervised):
    env.model = make_model(nn.Linear(8, 1))
    env.optimizer = torch.optim.SGD(env.model.parameters(), lr=0.01)
    env.pairs = [(x, x[:, :1]) for x, _ in env.pairs]
    env.loss_fn = nn.MSELoss()

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = call(loss_fn, model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    assert run(body, calls=2).supervised is supervised


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        return self.layer(x), x.mean(1)


@pytest.mark.parametrize(
    ("call", "supervised"),
    [
        (lambda f, out, y: f(out, y), True),
        (lambda f, out, y: f(list(out), (y[0], y[1])), True),
        (lambda f, out, y: f(out[:1], y), False),
        (lambda f, out, y: f(out, y[:1]), False),
        (lambda f, out, y: f((out[0] * 2, out[1]), y), False),
    ],
)
def test_several_outputs_and_targets_count_as_a_whole(env, run, make_model, call, supervised):
    env.model = make_model(Two())
    env.optimizer = torch.optim.SGD(env.model.parameters(), lr=0.01)
    env.pairs = [(x, (x[:, :3], x[:, 4])) for x, _ in env.pairs]
    env.loss_fn = lambda out, y: sum((a - b).square().mean() for a, b in zip(out, y, strict=False))

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = call(loss_fn, model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    assert run(body, calls=2).supervised is supervised


def test_micro_batches_count(env, run):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        for part, labels in zip(x.chunk(4), y.chunk(4), strict=True):
            loss = loss_fn(model(part), labels)
            (loss / 4).backward()
        optimizer.step()
        return loss

    assert run(body, calls=2).supervised


def test_a_loss_of_each_example_counts(env, run):
    env.loss_fn = nn.CrossEntropyLoss(reduction="none")

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.mean().backward()
        optimizer.step()

    log = run(body)

    assert log.supervised
    assert all(math.isfinite(v) for v in log.losses)


def test_losses_without_gradients_are_passed_over(env, run):
    @torch.no_grad()
    def body(model, optimizer, loss_fn, x, y):
        loss_fn(model(x), y)

    log = run(body)

    assert not log.supervised
    assert all(math.isnan(v) for v in log.losses)


@pytest.mark.parametrize("x", [{"a": 1.0}, (1.0,), "tensor"])
def test_plain_step_calls_the_model_as_inputs_ask(x):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, a):
            return self.w * (a if isinstance(a, float) else 1.0)

    model = Named()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    loss = plain_step(model, optimizer, lambda out, y: (out - y).square().sum(), x, 0.0)

    assert loss.item() == 1.0
    assert model.w.item() == 0.0


@pytest.mark.parametrize("other", [False, True])
def test_another_optimizer_at_work_is_seen(env, run, other):
    critic = nn.Linear(8, 1)
    theirs = torch.optim.SGD(critic.parameters(), lr=0.1)

    def body(model, optimizer, loss_fn, x, y):
        if other:
            critic(x).mean().backward()
            theirs.step()
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    assert run(body, calls=2).adversary is other
