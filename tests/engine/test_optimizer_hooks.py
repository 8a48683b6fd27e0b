import copy
import itertools

import pytest
import torch
from torch import nn

from trimtab import Watch, attach
from trimtab.engine._optimizer_hooks import OptimizerHooks
from trimtab.optim import NormClip

EVERYTHING = Watch(parameters=1, modules=1, histograms=1)

OPTIMIZERS = {
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True),
}


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def hooks_of(trim):
    (hooks,) = trim._hooks
    assert isinstance(hooks, OptimizerHooks)
    return hooks


def attached(problem, optimizer, **options):
    return attach(problem.model, optimizer, **({"out": None, "watch": EVERYTHING} | options))


def scale_attributes(optimizer):
    return {k for k in vars(optimizer) if k in {"grad_scale", "found_inf"}}


class TestClosures:
    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_are_clipped_after_they_ran(self, kind, make_problem):
        ours, reference = make_problem(), make_problem()
        optimizer = OPTIMIZERS[kind](ours.model.parameters())
        theirs = OPTIMIZERS[kind](reference.model.parameters())
        trim = attached(ours, optimizer, clip=0.05)

        def closure():
            optimizer.zero_grad()
            loss = ours.loss()
            loss.backward()
            return loss

        for step in range(5):
            theirs.zero_grad()
            loss = reference.loss()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(reference.model.parameters(), 0.05)
            theirs.step()
            # Both ways to hand a closure over.
            returned = optimizer.step(closure) if step % 2 else optimizer.step(closure=closure)
            values = trim.history[-1].values
            assert values["gradient.norm"] == pytest.approx(float(norm), rel=1e-4)
            assert values["loss"] == pytest.approx(loss.item(), rel=1e-4)
            assert returned.item() == pytest.approx(loss.item(), rel=1e-4)
            assert not scale_attributes(optimizer)
        torch.testing.assert_close(ours.params(), reference.params(), rtol=1e-4, atol=1e-6)
        trim.detach()

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_are_protected(self, kind, problem):
        optimizer = OPTIMIZERS[kind](problem.model.parameters())
        trim = attached(problem, optimizer)
        factors = iter([1.0, torch.nan, 1.0])

        def closure():
            optimizer.zero_grad()
            loss = problem.loss() * next(factors)
            loss.backward()
            return loss

        optimizer.step(closure)
        before = copy.deepcopy((problem.params(), optimizer.state_dict()))
        optimizer.step(closure)
        assert_same((problem.params(), optimizer.state_dict()), before)
        assert trim.skipped_steps == 1
        assert all(p.grad is not None for p in problem.model.parameters())
        optimizer.step(closure)
        assert not torch.equal(problem.params()[0], before[0][0])
        trim.detach()

    def test_lbfgs_is_measured_only(self, make_problem):
        ours, reference = make_problem(), make_problem()

        def train(problem):
            optimizer = torch.optim.LBFGS(problem.model.parameters(), lr=0.5, max_iter=4)
            trim = attached(problem, optimizer, clip=1e-3) if problem is ours else None
            losses = []

            def closure():
                optimizer.zero_grad()
                loss = problem.loss()
                loss.backward()
                return loss

            for _ in range(4):
                loss = problem.loss()
                norm = torch.stack(
                    [g.norm() for g in torch.autograd.grad(loss, list(problem.model.parameters()))]
                ).norm()
                losses.append((loss.item(), norm.item()))
                optimizer.step(closure)
            return trim, losses

        trim, losses = train(ours)
        _, expected = train(reference)
        assert_same(ours.params(), reference.params())
        assert losses == expected
        # The gradient at the point where the step began.
        seen = [(r.values["loss"], r.values["gradient.norm"]) for r in trim.history]
        for mine, theirs in zip(seen, losses, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)
        assert [r.values["gradient.clip_coefficient"] for r in trim.history] == [1.0] * 4
        trim.detach()

    def test_an_optimizer_that_calls_its_closure_twice(self, make_problem):
        """Sharpness-aware minimisation does; what counts is what it steps on."""

        class TwoPass(torch.optim.SGD):
            @torch.no_grad()
            def step(self, closure):
                with torch.enable_grad():
                    closure()
                moved = [p.grad * 0.05 for g in self.param_groups for p in g["params"]]
                params = [p for g in self.param_groups for p in g["params"]]
                torch._foreach_add_(params, moved)
                with torch.enable_grad():
                    loss = closure()
                torch._foreach_sub_(params, moved)
                super().step()
                return loss

        def train(problem, clip):
            optimizer = TwoPass(problem.model.parameters(), lr=0.1)
            trim = None if clip is None else attached(problem, optimizer, clip=clip)

            def closure():
                optimizer.zero_grad()
                loss = problem.loss()
                loss.backward()
                return loss

            for _ in range(3):
                optimizer.step(closure)
            return trim

        ours, reference = make_problem(), make_problem()
        trim = train(ours, 1e6)
        train(reference, None)
        assert_same(ours.params(), reference.params())
        assert trim.steps == 3
        trim.detach()

    def test_a_second_gradient_after_a_bad_first_is_kept(self, problem):
        """What was hidden for a skip must not come back over a gradient that is newer."""

        class Twice(torch.optim.SGD):
            def step(self, closure):
                closure()
                closure()
                return super().step()

        optimizer = Twice(problem.model.parameters(), lr=0.1)
        trim = attached(problem, optimizer)
        factors = iter([torch.nan, 1.0])

        def closure():
            optimizer.zero_grad()
            (problem.loss() * next(factors)).backward()

        before = problem.params()
        optimizer.step(closure)
        assert trim.skipped_steps == 0
        assert not torch.equal(problem.params()[0], before[0])
        assert all(p.isfinite().all() for p in problem.model.parameters())
        trim.detach()


class TestExceptions:
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    @pytest.mark.parametrize("fused", [True, False])
    def test_inside_of_a_step(self, error, fused, problem):
        class Faulty(torch.optim.AdamW):
            fails = True

            def step(self, closure=None):
                if self.fails:
                    raise error
                return super().step(closure)

        optimizer = Faulty(problem.model.parameters(), lr=1e-2, fused=fused)
        trim = attached(problem, optimizer, clip=1e-3)
        before = set(vars(optimizer))
        problem.loss().backward()
        with pytest.raises(error):
            optimizer.step()
        optimizer.fails = False
        optimizer.step()
        assert set(vars(optimizer)) - {"fails"} == before
        assert trim.steps == 1
        optimizer.fails = True
        with pytest.raises(error):
            optimizer.step()
        trim.detach()
        assert not scale_attributes(optimizer)

    @pytest.mark.parametrize("zero", [True, False])
    def test_hidden_gradients_come_back(self, zero, problem):
        class Faulty(torch.optim.SGD):
            def step(self, closure=None):
                raise KeyboardInterrupt

        optimizer = Faulty(problem.model.parameters(), lr=0.1)
        trim = attached(problem, optimizer)
        (problem.loss() * torch.nan).backward()
        grads = [p.grad for p in problem.model.parameters()]
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
        if zero:
            optimizer.zero_grad()
            problem.loss().backward()
            grads = [p.grad for p in problem.model.parameters()]
        trim.detach()
        assert all(p.grad is g for p, g in zip(problem.model.parameters(), grads, strict=True))

    def test_a_step_inside_of_a_step_counts_once(self, make_problem):
        class Inherited(torch.optim.AdamW):
            def step(self, closure=None):
                if self.fails:
                    raise ZeroDivisionError
                return super().step(closure)

        ours, reference = make_problem(), make_problem()
        optimizer = Inherited(ours.model.parameters(), lr=1e-2, fused=True)
        theirs = torch.optim.AdamW(reference.model.parameters(), lr=1e-2, fused=True)
        clip = 0.05
        trims = [attached(ours, optimizer, clip=clip), attached(reference, theirs, clip=clip)]
        for fails in (False, True, False):
            optimizer.fails = fails
            for problem, opt in ((ours, optimizer), (reference, theirs)):
                opt.zero_grad()
                problem.loss().backward()
                if fails:
                    if problem is ours:
                        with pytest.raises(ZeroDivisionError):
                            opt.step()
                else:
                    opt.step()
        assert_same(ours.params(), reference.params())
        assert [t.steps for t in trims] == [2, 2]
        for trim in trims:
            trim.detach()


SCALE = 2.0**10


class TestGradScaler:
    """torch's own scaler in the user's loop, on a CPU."""

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    @pytest.mark.parametrize("unscales", [True, False])
    def test_equals_the_loop_without_attach(self, kind, unscales, make_problem):
        """A scale that overflows at first; the user clips at 0.5, or attach does."""
        ours, reference = make_problem(), make_problem()

        def train(problem, *, clips, trim=None, optimizer=None):
            # By itself, fused SGD starts from unwritten memory if the first step overflows.
            bare = OPTIMIZERS[kind.replace("sgd-fused", "sgd")]
            optimizer = optimizer or bare(problem.model.parameters())
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=99)
            scales, moved = [], []
            for _ in range(40):
                before = problem.params()
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.float16):
                    loss = problem.loss()
                scaler.scale(loss).backward()
                if clips:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(problem.model.parameters(), 0.5)
                scaler.step(optimizer)
                scaler.update()
                assert not scale_attributes(optimizer)
                scales.append(scaler.get_scale())
                moved.append(not torch.equal(before[0], problem.params()[0]))
            return scales, moved

        optimizer = OPTIMIZERS[kind](ours.model.parameters())
        trim = attached(ours, optimizer, clip=1e6 if unscales else 0.5, max_skips=99)
        expected = train(reference, clips=True)
        assert train(ours, clips=unscales, optimizer=optimizer) == expected
        torch.testing.assert_close(ours.params(), reference.params(), rtol=1e-4, atol=1e-5)
        skipped = [bool(r.values["step.skipped"]) for r in trim.history]
        assert skipped == [not moved for moved in expected[1]]
        assert trim.skipped_steps > 5
        trim.detach()

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    @pytest.mark.parametrize("at_once", [True, False])
    def test_norms_are_in_unscaled_units(self, kind, at_once, problem):
        optimizer = OPTIMIZERS[kind](problem.model.parameters())
        trim = attached(problem, optimizer, clip=None)
        hooks_of(trim)._updater.at_once = trim.recorder.at_once = at_once
        scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
        loss = problem.loss()
        grads = torch.autograd.grad(loss, list(problem.model.parameters()), retain_graph=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        trim.sync()
        values = trim.history[-1].values
        norm = torch.stack([g.norm() for g in grads]).norm().item()
        assert values["gradient.norm"] == pytest.approx(norm, rel=1e-5)
        assert values["loss_scale"] == SCALE
        _, columns = trim.history[-1].tables["parameters"]
        rms = [g.square().mean().sqrt().item() for g in grads]
        assert columns["gradient.rms"] == pytest.approx(rms, rel=1e-5)
        if "adam" in kind:  # after one step, v is the square of the gradient
            assert columns["adam.rms_ratio"] == pytest.approx([1] * 4, rel=1e-3)
        trim.detach()

    def test_after_the_users_own_unscaling_the_scale_is_not_known(self, problem):
        optimizer = problem.adamw()
        trim = attached(problem, optimizer, clip=None)
        scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
        scaler.scale(problem.loss()).backward()
        scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(problem.model.parameters(), 1e6))
        scaler.step(optimizer)
        assert trim.history[-1].values["gradient.norm"] == pytest.approx(norm, rel=1e-5)
        assert trim.history[-1].values["loss_scale"] != trim.history[-1].values["loss_scale"]
        trim.detach()

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    @pytest.mark.parametrize("at_once", [True, False])
    def test_an_overflow_is_obeyed_without_protection_too(self, kind, at_once, problem):
        optimizer = OPTIMIZERS[kind](problem.model.parameters())
        trim = attached(problem, optimizer, guard=None)
        hooks_of(trim)._updater.at_once = at_once
        scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
        scaler.scale(problem.loss()).backward()
        before = problem.params()
        problem.model[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        assert_same(problem.params(), before)
        assert trim.skipped_steps == 1
        assert scaler.get_scale() == SCALE / 2
        trim.detach()

    def test_a_scaler_that_is_switched_off(self, problem):
        optimizer = problem.adamw()
        trim = attached(problem, optimizer)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        scaler.scale(problem.loss()).backward()
        scaler.step(optimizer)
        assert trim.steps == 1
        assert trim.history[-1].values["loss_scale"] == 1
        trim.detach()

    def test_the_flag_for_the_scaler_goes_with_detach(self, problem):
        optimizer = problem.adamw()
        trim = attached(problem, optimizer)
        assert optimizer._step_supports_amp_scaling
        trim.detach()
        assert not hasattr(optimizer, "_step_supports_amp_scaling")

    def test_lightning_keeps_its_own_overflow_check(self, problem):
        """It refuses to clip for an optimizer that unscales by itself."""

        class LightningModule(nn.Sequential):
            pass

        optimizer = problem.adamw()
        trim = attach(LightningModule(problem.model), optimizer, out=None)
        assert not hasattr(optimizer, "_step_supports_amp_scaling")
        trim.detach()


@pytest.mark.parametrize("watch", [EVERYTHING, Watch(parameters=3, modules=3), False])
@pytest.mark.parametrize("kind", ["adamw-fused", "sgd-fused"])
@pytest.mark.parametrize("scaler", [True, False])
def test_nothing_waits_for_the_device(kind, watch, scaler, problem, no_host_sync):
    """What an accelerator would do, with a fused optimizer: due steps and others."""
    optimizer = OPTIMIZERS[kind](problem.model.parameters())
    trim = attached(problem, optimizer, watch=watch, clip=NormClip(0.1))
    trim.recorder.at_once = hooks_of(trim)._updater.at_once = False
    scale = torch.full((), SCALE)
    for step in range(8):
        optimizer.zero_grad()
        with no_host_sync():
            loss = trim.loss(problem.loss())
            (loss * scale if scaler else loss).backward()
            if scaler:
                optimizer.grad_scale, optimizer.found_inf = scale, torch.zeros(())
            optimizer.step()
        if scaler:
            del optimizer.grad_scale, optimizer.found_inf
        assert trim.steps == step  # the numbers of the step before
    trim.sync()
    assert trim.steps == 8
    trim.detach()


def test_numbers_that_come_a_step_later_are_the_same(make_problem):
    records = []
    for at_once in (True, False):
        problem = make_problem()
        optimizer = problem.adamw(fused=True)
        trim = attached(problem, optimizer, clip=0.1)
        trim.recorder.at_once = at_once
        for _ in range(6):
            optimizer.zero_grad()
            trim.loss(problem.loss()).backward()
            optimizer.step()
        trim.detach()
        records.append(list(trim.history))
    for a, b in zip(*records, strict=True):
        assert a.values.keys() == b.values.keys()
        for name in a.values.keys() - {"step.seconds", "memory.bytes"}:
            assert a.values[name] == pytest.approx(b.values[name], nan_ok=True), name
        for table, (_, columns) in a.tables.items():
            for name, column in columns.items():
                assert column == pytest.approx(b.tables[table][1][name], nan_ok=True), name


def test_a_model_that_moved_is_followed(problem):
    """As Accelerate moves it after attach()."""
    optimizer = problem.adamw()
    trim = attached(problem, optimizer)
    trim.recorder.device = torch.device("meta")  # as if it had been there
    moves = []
    trim.recorder.move_to = lambda device: (
        moves.append(device) or setattr(trim.recorder, "device", device)
    )
    for _ in itertools.repeat(None, 2):
        problem.loss().backward()
        optimizer.step()
    assert moves == [torch.device("cpu")]
    trim.detach()


@pytest.mark.parametrize("kind", ["sgd-fused", "adamw-fused"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_first_step_that_is_skipped(kind, at_once, make_problem):
    """Fused SGD would start its momentum from memory that nobody wrote."""
    ours, reference = make_problem(), make_problem()
    optimizer = OPTIMIZERS[kind](ours.model.parameters())
    theirs = OPTIMIZERS[kind](reference.model.parameters())
    trim = attached(ours, optimizer, clip=None)
    hooks_of(trim)._updater.at_once = at_once
    (ours.loss() * torch.nan).backward()
    optimizer.step()
    for _ in range(3):
        for problem, opt in ((ours, optimizer), (reference, theirs)):
            opt.zero_grad()
            problem.loss().backward()
            opt.step()
    assert_same(ours.params(), reference.params())
    trim.detach()
