import copy
import itertools

import pytest
import torch
from torch import nn

from trimtab import ConfigError, DivergedError, StateError, Stepper
from trimtab.optim import AutoClip, NormClip, ValueClip, ZClip, warmup_constant, warmup_cosine
from trimtab.precision import LossScaler
from trimtab.signals import Recorder, Watch

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True),
}


def state_of(stepper, model):
    return copy.deepcopy((model.state_dict(), stepper.optimizer.state_dict()))


def assert_same(a, b):
    """Compare nested states bit for bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list | tuple):
        for mine, theirs in zip(a, b, strict=True):
            assert_same(mine, theirs)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert a == b


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_equals_the_loop_written_by_hand(make_problem, kind, clip):
    ours, reference = make_problem(), make_problem()
    optimizer = OPTIMIZERS[kind](reference.model.parameters())
    stepper = ours.stepper(OPTIMIZERS[kind](ours.model.parameters()), clip=clip)
    for _ in range(20):
        optimizer.zero_grad()
        loss = reference.loss()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(reference.model.parameters(), clip)
        optimizer.step()

        ours_loss = stepper.backward(ours.loss)
        result = stepper.step()
        assert result.stepped
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-5)
        assert result.clip_coefficient == pytest.approx(min(1, clip / float(norm)), rel=1e-5)
        assert float(ours_loss) == pytest.approx(loss.item(), rel=1e-4)
    torch.testing.assert_close(ours.params(), reference.params(), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("quiet")
def test_is_bitwise_the_plain_loop_when_nothing_is_clipped(make_problem):
    ours, reference = make_problem(), make_problem()
    optimizer = reference.adamw(fused=True)
    stepper = ours.stepper(ours.adamw(fused=True), clip=1e6)
    for _ in range(10):
        optimizer.zero_grad()
        reference.loss().backward()
        optimizer.step()
        stepper.backward(ours.loss, weight=64)
        stepper.step()
    assert_same(ours.params(), reference.params())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("at_once", [True, False])
def test_folded_and_plain_clipping_agree(make_problem, at_once):
    folded, plain = make_problem(), make_problem()
    a = folded.stepper(folded.adamw(fused=True), clip=0.1)
    b = plain.stepper(plain.adamw(foreach=True), clip=0.1)
    a._at_once = at_once
    a._updater.at_once = at_once  # the way an accelerator goes, on a CPU
    for _ in range(10):
        a.backward(folded.loss)
        b.backward(plain.loss)
        assert a.step().clip_coefficient == pytest.approx(b.step().clip_coefficient, rel=1e-5)
    torch.testing.assert_close(folded.params(), plain.params(), rtol=1e-5, atol=1e-6)
    assert not hasattr(a.optimizer, "grad_scale")
    assert not hasattr(a.optimizer, "found_inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.usefixtures("quiet")
def test_unequal_micro_batches_equal_one_batch(make_problem, dtype, kind):
    """The accumulation bug of 2024: means over different counts must not be averaged as equals."""
    whole, parts = make_problem(dtype), make_problem(dtype)
    one = whole.stepper(OPTIMIZERS[kind](whole.model.parameters()), clip=0.3)
    many = parts.stepper(OPTIMIZERS[kind](parts.model.parameters()), clip=0.3, accumulate=4)
    borders = [0, 3, 10, 40, 64]
    for _ in range(5):
        one.backward(whole.loss, weight=64)
        expected = one.step()
        for start, end in itertools.pairwise(borders):
            rows = slice(start, end)
            many.backward(lambda rows=rows: parts.loss(rows), weight=end - start)
            result = many.step()
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)
        assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(parts.params(), whole.params(), rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("quiet")
def test_averaging_the_means_would_have_been_wrong(make_problem):
    """The test above can fail: dropping the weights gives another result."""
    whole, parts = make_problem(), make_problem()
    one, many = whole.stepper(clip=None), parts.stepper(clip=None, accumulate=2)
    one.backward(whole.loss)
    one.step()
    for rows in (slice(0, 3), slice(3, 64)):
        many.backward(lambda rows=rows: parts.loss(rows))
        many.step()
    assert not torch.allclose(parts.params()[0], whole.params()[0], rtol=1e-4)


def test_step_acts_only_when_due(problem):
    stepper = problem.stepper(accumulate=3)
    before = problem.params()
    for expected in (False, False, True):
        stepper.backward(problem.loss)
        result = stepper.step()
        assert (result.due, result.stepped, result.skipped) == (expected, expected, False)
        assert (stepper.steps == 1) == expected
        assert torch.equal(before[0], problem.params()[0]) != expected


def test_flush_steps_the_short_window_by_what_it_holds(make_problem):
    ours, reference = make_problem(), make_problem()
    stepper = ours.stepper(accumulate=4)
    plain = reference.stepper()
    for rows in (slice(0, 8), slice(8, 10)):
        stepper.backward(lambda rows=rows: ours.loss(rows), weight=rows.stop - rows.start)
        assert not stepper.step().due
    result = stepper.flush()
    plain.backward(lambda: reference.loss(slice(0, 10)))
    plain.step()
    assert result.stepped
    torch.testing.assert_close(ours.params(), reference.params())
    assert not stepper.flush().due
    assert stepper.micro_steps == 0


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("clip", [1.0, None, ZClip(), AutoClip(), ValueClip(1.0)], ids=str)
def test_a_non_finite_gradient_touches_nothing(problem, kind, at_once, bad, clip):
    optimizer = OPTIMIZERS[kind](problem.model.parameters())
    schedule = warmup_cosine(optimizer, 5, 50)
    stepper = problem.stepper(optimizer, schedule=schedule, clip=copy.deepcopy(clip))
    stepper._at_once = stepper._updater.at_once = at_once
    for _ in range(3):
        stepper.backward(problem.loss)
        stepper.step()
    stepper.sync()
    before = state_of(stepper, problem.model)
    clipper = stepper.clipper and copy.deepcopy(stepper.clipper.state_dict())
    rates = schedule.get_last_lr(), schedule.last_epoch

    poison = problem.model[0].weight.register_hook(
        lambda grad: grad.index_fill(0, torch.tensor([1]), bad)
    )
    stepper.backward(problem.loss)
    poison.remove()
    result = stepper.step()
    stepper.sync()

    assert result.skipped
    assert not result.stepped
    assert stepper.skipped_steps == 1
    assert stepper.steps == 3
    assert_same(state_of(stepper, problem.model), before)
    assert (schedule.get_last_lr(), schedule.last_epoch) == rates
    if clipper is not None:
        assert_same(stepper.clipper.state_dict(), clipper)

    stepper.backward(problem.loss)
    assert stepper.step().stepped


@pytest.mark.parametrize("at_once", [True, False])
def test_a_non_finite_loss_skips_too(problem, at_once):
    stepper = problem.stepper(clip=ZClip())
    stepper._at_once = stepper._updater.at_once = at_once
    before = problem.params()
    stepper.backward(lambda: problem.loss() + torch.tensor(float("inf")))
    assert stepper.step().skipped
    assert_same(problem.params(), before)


def test_endless_skipping_ends_with_a_message(problem):
    stepper = problem.stepper(max_skips=2)
    for _ in range(2):
        stepper.backward(lambda: problem.loss() * float("nan"))
        assert stepper.step().skipped
    stepper.backward(lambda: problem.loss() * float("nan"))
    with pytest.raises(DivergedError, match="3 steps in a row"):
        stepper.step()


def test_the_schedule_moves_with_the_optimizer_alone(problem):
    optimizer = problem.adamw()
    schedule = warmup_cosine(optimizer, 2, 10)
    stepper = problem.stepper(optimizer, schedule=schedule, accumulate=2)
    for _ in range(6):
        stepper.backward(problem.loss)
        stepper.step()
    assert schedule.last_epoch == 3


def test_a_token_schedule_is_given_the_true_tokens(problem):
    optimizer = problem.adamw()
    schedule = warmup_cosine(optimizer, warmup_tokens=100, total_tokens=1000)
    stepper = problem.stepper(optimizer, schedule=schedule, accumulate=2)
    for weight in (20, 30):
        stepper.backward(problem.loss, weight=weight)
        stepper.step()
    assert schedule.get_last_lr()[0] == pytest.approx(0.5 * 1e-2)


class TestMixedPrecision:
    def test_fp16_matches_torch_grad_scaler(self, make_problem):
        ours, reference = make_problem(), make_problem()
        optimizer = reference.adamw()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
        stepper = ours.stepper(
            precision="fp16", clip=0.5, scaler=LossScaler(2.0**40, interval=3), max_skips=99
        )
        skipped = 0
        for step in range(40):
            before = reference.params()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = reference.loss()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(reference.model.parameters(), 0.5)
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()

            stepper.backward(ours.loss)
            result = stepper.step()
            moved = not torch.equal(before[0], reference.params()[0])
            assert (result.stepped, result.loss_scale) == (moved, scale), step
            assert float(stepper.scaler.scale) == scaler.get_scale()
            skipped += result.skipped
        assert skipped > 5
        torch.testing.assert_close(ours.params(), reference.params(), rtol=1e-4, atol=1e-5)

    def test_bf16_runs_without_a_scaler(self, problem):
        stepper = problem.stepper(precision="bf16")
        seen = []

        def loss():
            seen.append(problem.model(problem.x).dtype)
            return problem.loss()

        stepper.backward(loss)
        assert stepper.step().stepped
        assert seen == [torch.bfloat16]
        assert stepper.scaler is None

    def test_a_loss_from_outside_autocast_is_refused(self, problem):
        stepper = problem.stepper(precision="bf16")
        with pytest.raises(StateError, match="outside mixed precision"):
            stepper.backward(problem.loss())
        with stepper.autocast():
            loss = problem.loss()
        stepper.backward(loss)
        assert stepper.step().stepped

    def test_overflow_halves_the_scale_and_skips(self, problem):
        stepper = problem.stepper(precision="fp16", scaler=LossScaler(2.0**126))
        before = problem.params()
        stepper.backward(problem.loss)
        assert stepper.step().skipped
        assert float(stepper.scaler.scale) == 2.0**125
        assert_same(problem.params(), before)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("clip", [0.05, None, ZClip(), AutoClip(), ValueClip(1e-3)], ids=str)
@pytest.mark.parametrize("micro_steps", [8, 9])
def test_resume_is_bit_for_bit(make_problem, clip, micro_steps):
    """Also in the middle of an accumulation window."""

    def build():
        problem = make_problem()
        optimizer = problem.adamw(fused=True)
        schedule = warmup_cosine(optimizer, 3, 20)
        return problem, problem.stepper(
            optimizer, schedule=schedule, accumulate=2, precision="fp16", clip=copy.deepcopy(clip)
        )

    def advance(problem, stepper, first, last):
        for i in range(first, last):
            rows = slice(i, i + 8)
            stepper.backward(lambda rows=rows: problem.loss(rows), weight=8 - i % 3)
            stepper.step()

    straight, stepper = build()
    advance(straight, stepper, 0, 20)

    first, saved = build()
    advance(first, saved, 0, micro_steps)
    state = copy.deepcopy({"model": first.model.state_dict(), "stepper": saved.state_dict()})
    second, resumed = build()
    second.model.load_state_dict(state["model"])
    resumed.load_state_dict(state["stepper"])
    advance(second, resumed, micro_steps, 20)

    assert_same(second.params(), straight.params())
    assert_same(resumed.state_dict(), stepper.state_dict())


def test_foreign_gradients_do_not_enter(make_problem):
    """The critic's gradients of a GAN's generator step, for example."""
    ours, reference = make_problem(), make_problem()
    stepper, plain = ours.stepper(), reference.stepper()
    (ours.loss() * 100).backward()
    stepper.backward(ours.loss)
    stepper.step()
    plain.backward(reference.loss)
    plain.step()
    assert_same(ours.params(), reference.params())


def test_a_micro_batch_without_samples_is_left_out(make_problem):
    ours, reference = make_problem(), make_problem()
    stepper, plain = ours.stepper(accumulate=2), reference.stepper()
    stepper.backward(lambda: ours.loss() * float("nan"), weight=0)
    stepper.step()
    stepper.backward(ours.loss, weight=64)
    assert stepper.step().stepped
    plain.backward(reference.loss)
    plain.step()
    assert_same(ours.params(), reference.params())


def test_parameters_without_gradient_and_frozen_ones_are_fine():
    model = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
    model[0].bias.requires_grad_(False)
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1))
    stepper.backward(lambda: model[0](torch.ones(2, 3)).mean())
    result = stepper.step()
    assert result.stepped
    assert result.grad_norms.shape == (1,)


def test_nothing_waits_for_the_device(problem, no_host_sync):
    """What an accelerator would do, from the second step on, with a fused optimizer."""
    optimizer = problem.adamw(fused=True)
    stepper = problem.stepper(
        optimizer, precision="fp16", schedule=warmup_constant(optimizer, 3), clip=NormClip(0.1)
    )
    stepper._at_once = stepper._updater.at_once = False
    stepper.backward(problem.loss)
    stepper.step()
    with no_host_sync():
        stepper.backward(problem.loss)
        stepper.step()


class TestBadInput:
    def test_window_is_full(self, problem):
        stepper = problem.stepper()
        stepper.backward(problem.loss)
        with pytest.raises(StateError, match=r"Call step\(\) after every backward\(\)"):
            stepper.backward(problem.loss)

    def test_step_without_backward(self, problem):
        with pytest.raises(StateError, match=r"needs a backward\(\) before it"):
            problem.stepper().step()

    def test_loss_per_example(self, problem):
        with pytest.raises(ConfigError, match=r"one number, got \(64, 1\)"):
            problem.stepper().backward(lambda: problem.model(problem.x))

    def test_loss_without_gradient(self, problem):
        with pytest.raises(StateError, match="no gradient"):
            problem.stepper().backward(problem.loss().detach())

    @pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), torch.ones(2)])
    def test_weight(self, problem, weight):
        with pytest.raises(ConfigError, match="weight"):
            problem.stepper().backward(problem.loss, weight=weight)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"accumulate": 0}, "accumulate must be a whole number"),
            ({"accumulate": 2.0}, "accumulate must be a whole number"),
            ({"accumulate": True}, "accumulate must be a whole number"),
            ({"max_skips": 0}, "max_skips"),
            ({"precision": "fp8"}, "fp32, bf16, fp16"),
            ({"clip": -1.0}, "-1"),
            ({"clip": float("nan")}, "nan"),
            ({"clip": "1.0"}, "clip"),
            ({"schedule": "cosine"}, "LRScheduler"),
            ({"scaler": LossScaler()}, "fp16"),
        ],
    )
    def test_arguments(self, problem, options, message):
        with pytest.raises(ConfigError, match=message):
            problem.stepper(**options)

    def test_schedule_of_another_optimizer(self, problem):
        other = torch.optim.lr_scheduler.ConstantLR(problem.adamw())
        with pytest.raises(ConfigError, match="another optimizer"):
            problem.stepper(schedule=other)

    def test_plateau_schedule(self, problem):
        optimizer = problem.adamw()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        with pytest.raises(ConfigError, match="validation metric"):
            problem.stepper(optimizer, schedule=plateau)

    def test_state_of_another_kind_of_stepper(self, problem, make_problem):
        other = make_problem()
        state = problem.stepper(precision="fp16").state_dict()
        with pytest.raises(ConfigError, match="settings it was saved with"):
            other.stepper().load_state_dict(state)


class TestRecorder:
    def recorded(self, problem, **options):
        params = list(problem.model.parameters())
        recorder = Recorder(problem.model, params, watch=Watch(parameters=1, modules=1))
        records, sources = [], []
        recorder.sinks.append(records.append)
        recorder.on_nonfinite.append(lambda step, source: sources.append((step, source)))
        return problem.stepper(recorder=recorder, **options), records, sources

    @pytest.mark.parametrize(
        ("clip", "threshold"), [(NormClip(0.5), 0.5), (ZClip(max_norm=2.0), 2.0)]
    )
    def test_the_bound_of_the_clipper_is_recorded(self, problem, clip, threshold):
        stepper, records, _ = self.recorded(problem, clip=clip)
        stepper.backward(problem.loss)
        stepper.step()
        assert records[0].values["gradient.clip_threshold"] == threshold

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_a_value_that_is_not_finite_is_traced_to_its_source(self, problem, precision):
        stepper, records, sources = self.recorded(problem, precision=precision)
        problem.x[5] = torch.nan
        state = copy.deepcopy(problem.model.state_dict())
        stepper.backward(problem.loss)
        assert stepper.step().skipped
        [(step, source)] = sources
        assert (step, source.kind, source.row, source.num_rows) == (1, "input", 5, 1)
        assert records[0].values["input.nonfinite_fraction"] == pytest.approx(1 / 64)
        assert_same(problem.model.state_dict(), state)

    def test_a_loss_that_is_not_finite(self, problem):
        stepper, _, sources = self.recorded(problem)
        stepper.backward(lambda: problem.loss() * torch.inf)
        stepper.step()
        assert str(sources[0][1]) == "the loss"

    def test_an_overflow_of_the_loss_scale_is_none(self, problem):
        stepper, _, sources = self.recorded(
            problem, precision="fp16", scaler=LossScaler(init_scale=2.0**127)
        )
        stepper.backward(problem.loss)
        assert stepper.step().skipped
        assert not sources
