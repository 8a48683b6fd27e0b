import copy
import dataclasses
import io
import pickle
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.engine.conftest import (
    CLIPPERS,
    EVERYTHING,
    OPTIMIZERS,
    TokenMixer,
    assert_same,
    fill,
    row,
    snapshot,
    step_once,
    token_loss,
    train_tokens,
    values,
    watched,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from trimtab import ConfigError, DivergedError, attach
from trimtab.optim import ZClip


class TestChangesNothing:
    @pytest.mark.parametrize("kind", OPTIMIZERS)
    @pytest.mark.parametrize("clip", CLIPPERS)
    def test_watching_is_bitwise_not_watching(self, kind, clip):
        runs = []
        for watch in (EVERYTHING, False):
            model = fill(TokenMixer())
            optimizer = OPTIMIZERS[kind](model.parameters())
            _, trim = watched(model, optimizer, watch=watch, clip=CLIPPERS[clip](model))
            losses = train_tokens(model, optimizer, 6)
            assert [r.values["gradient.norm"] > 0 for r in trim.history] == [True] * 6
            assert len(trim.history[-1].tables) == (3 if watch else 0)
            trim.detach()
            runs.append((losses, values(model)))
        assert runs[0][0] == runs[1][0]
        assert_same(runs[0][1], runs[1][1])

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    @pytest.mark.parametrize("clip", [None, 1e6])
    def test_without_clipping_it_is_bitwise_the_bare_loop(self, kind, clip):
        bare, model = fill(TokenMixer()), fill(TokenMixer())
        expected = train_tokens(bare, OPTIMIZERS[kind](bare.parameters()), 6)
        optimizer, trim = watched(model, OPTIMIZERS[kind](model.parameters()), clip=clip)
        assert train_tokens(model, optimizer, 6) == expected
        assert_same(values(model), values(bare))
        trim.detach()

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_clipping_equals_torch(self, kind):
        bare, model = fill(TokenMixer()), fill(TokenMixer())
        theirs = OPTIMIZERS[kind](bare.parameters())
        optimizer, trim = watched(model, OPTIMIZERS[kind](model.parameters()), clip=0.1)
        for step in range(6):
            bare.eval(), model.eval()  # two losses a step would draw two dropout masks
            norms = []
            for net, opt in ((bare, theirs), (model, optimizer)):
                opt.zero_grad()
                token_loss(net, step).backward()
                if net is bare:
                    norms.append(float(nn.utils.clip_grad_norm_(net.parameters(), 0.1)))
                opt.step()
            assert trim.history[-1].values["gradient.norm"] == pytest.approx(norms[0], rel=1e-5)
        torch.testing.assert_close(values(model), values(bare), rtol=1e-4, atol=1e-5)
        trim.detach()

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_detaching_leaves_nothing(self, kind):
        bare, model = fill(TokenMixer()), fill(TokenMixer())
        theirs = OPTIMIZERS[kind](bare.parameters())
        expected = train_tokens(bare, theirs, 8)

        optimizer = OPTIMIZERS[kind](model.parameters())
        before = snapshot(model, optimizer)
        detached = []

        def detach_later(step):
            if step == 3:
                trim.detach()
                detached.append(snapshot(model, optimizer))

        _, trim = watched(model, optimizer, clip=None)
        assert snapshot(model, optimizer) != before
        assert train_tokens(model, optimizer, 8, detach_later) == expected
        assert detached == [before]
        assert snapshot(model, optimizer) == before
        assert trim.steps == 4
        assert_same(values(model), values(bare))

    def test_gradients_are_there_after_the_step(self):
        """As the bare loop leaves them: clipped."""
        model = fill(nn.Linear(3, 2))
        optimizer, trim = watched(model, clip=0.01)
        step_once(model, optimizer, torch.ones(4, 3))
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        assert float(norm) == pytest.approx(0.01, rel=1e-5)
        trim.detach()


@dataclasses.dataclass
class Prediction:
    count: int
    value: torch.Tensor


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Wrapped(nn.Module):
    """Returns its output in the given form, through a module of its own."""

    def __init__(self, form):
        super().__init__()
        self.inner, self.former = nn.Linear(4, 4), Former(form)

    def forward(self, x):
        return self.former(self.inner(x))


class Former(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x)


FORMS = {
    "tuple": (lambda x: (x, x.sum()), lambda y: y[0]),
    "named-tuple": (lambda x: Pair(x, x.sum()), lambda y: y.first),
    "list": (lambda x: [x], lambda y: y[0]),
    "dict": (lambda x: {"other": None, "value": x}, lambda y: y["value"]),
    "dataclass": (lambda x: Prediction(3, x), lambda y: y.value),
    "nested": (lambda x: ({"a": [x]}, None), lambda y: y[0]["a"][0]),
    "channels-last": (
        lambda x: x.reshape(2, 4, 2, 2).to(memory_format=torch.channels_last),
        lambda y: y,
    ),
    "transposed": (lambda x: x.t(), lambda y: y),
    "expanded": (lambda x: x[:1].expand(5, 4), lambda y: y),
    "strided": (lambda x: x[::2, 1::2], lambda y: y),
    "0-d": (lambda x: x.sum(), lambda y: y),
}
UNSEEN = {
    "complex": (lambda x: torch.complex(x, x), lambda y: y.real),
    "nothing": (lambda x: None, None),
    "integers": (lambda x: x.long(), None),
    "empty": (lambda x: x[:0], None),
    "string": (lambda x: "text", None),
    "sparse": (lambda x: x.detach().to_sparse(), None),
}


@pytest.mark.parametrize("form", FORMS | UNSEEN)
def test_whatever_a_module_returns(form):
    make, read = (FORMS | UNSEEN)[form]
    model = fill(Wrapped(make))
    optimizer, trim = watched(model)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    if read is None:
        model.forward = lambda x: (model.former(h := model.inner(x)), h)[1]
        read = lambda y: y  # noqa: E731 # the output as it is
    step_once(model, optimizer, x, read)
    assert trim.steps == 1
    rms = row(trim, "modules", "former", "activation.rms")
    assert np.isnan(rms) == (form in UNSEEN)
    assert row(trim, "modules", "inner", "activation.rms") > 0
    trim.detach()


class TestMustNotBreak:
    def test_in_place_relu(self):
        """What is seen of the layer before it is what that layer gave out."""
        model = fill(nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 1)))
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        expected = model[0](x).detach().square().mean().sqrt()
        optimizer, trim = watched(model)
        step_once(model, optimizer, x)
        assert row(trim, "modules", "0", "activation.rms") == pytest.approx(float(expected))
        assert row(trim, "modules", "1", "activation.zero_fraction") > 0.2
        trim.detach()

    def test_tied_weights(self):
        model = fill(nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)))
        model[1].weight = model[0].weight
        optimizer, trim = watched(model)
        step_once(model, optimizer, torch.arange(7))
        sites, columns = trim.history[-1].tables["parameters"]
        assert sites == ["0.weight"]
        assert columns["gradient.norm"][0] == pytest.approx(
            model[0].weight.grad.norm().item()
            / trim.history[-1].values["gradient.clip_coefficient"],
            rel=1e-5,
        )
        trim.detach()

    def test_a_module_called_twice_shows_its_last_call(self):
        model = fill(nn.Linear(4, 4))
        optimizer, trim = watched(model)
        y = model(torch.ones(2, 4))
        last = model(y * 3)
        last.mean().backward()
        optimizer.step()
        assert row(trim, "modules", "model", "activation.mean") == pytest.approx(last.mean().item())
        trim.detach()

    def test_a_module_never_called_and_a_parameter_without_gradient(self):
        model = fill(nn.ModuleDict({"used": nn.Linear(3, 1), "idle": nn.Linear(3, 1)}))
        model["used"].bias.requires_grad_(False)
        optimizer, trim = watched(model, torch.optim.AdamW(model.parameters()))
        for _ in range(2):
            model["used"](torch.ones(2, 3)).mean().backward()
            optimizer.step()
        assert np.isnan(row(trim, "modules", "idle", "activation.rms"))
        assert np.isnan(row(trim, "parameters", "idle.weight", "gradient.norm"))
        assert np.isnan(row(trim, "parameters", "used.bias", "gradient.norm"))
        assert row(trim, "parameters", "idle.weight", "update.ratio") == 0
        assert row(trim, "parameters", "idle.weight", "weight.norm") > 0
        trim.detach()

    def test_a_step_without_any_gradient(self):
        model = nn.Linear(3, 1)
        optimizer, trim = watched(model)
        optimizer.step()
        assert trim.history[-1].values["gradient.norm"] == 0
        assert not trim.history[-1].values["step.skipped"]
        trim.detach()

    @pytest.mark.parametrize("kind", ["sparse-adam", "sgd"])
    def test_sparse_embedding_gradients(self, kind):
        def build():
            model = fill(nn.Embedding(50, 3, sparse=True))
            make = {"sparse-adam": torch.optim.SparseAdam, "sgd": torch.optim.SGD}[kind]
            return model, make(model.parameters(), lr=0.1)

        bare, theirs = build()
        model, optimizer = build()
        _, trim = watched(model, optimizer, clip=0.05)
        x = torch.tensor([1, 4, 4, 9])
        for _ in range(3):
            for net, opt in ((bare, theirs), (model, optimizer)):
                opt.zero_grad()
                net(x).square().sum().backward()
                if net is bare:
                    grad = net.weight.grad.coalesce()
                    norm = float(grad.values().norm())
                    net.weight.grad = grad * min(1, 0.05 / norm)
                opt.step()
            assert trim.history[-1].values["gradient.norm"] == pytest.approx(norm, rel=1e-4)
        torch.testing.assert_close(values(model), values(bare), rtol=1e-4, atol=1e-6)
        trim.detach()

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_activation_checkpointing(self, reentrant):
        def build():
            model = fill(nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 4)))
            return model, torch.optim.SGD(model.parameters(), lr=0.1)

        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()

        def train(model, optimizer):
            for _ in range(3):
                optimizer.zero_grad()
                checkpoint(model, x, use_reentrant=reentrant).square().mean().backward()
                optimizer.step()

        bare, theirs = build()
        train(bare, theirs)
        model, optimizer = build()
        _, trim = watched(model, optimizer, clip=None)
        train(model, optimizer)
        assert_same(values(model), values(bare))
        assert row(trim, "modules", "0", "activation.rms") > 0
        trim.detach()

    def test_autocast(self):
        model = fill(TokenMixer())
        optimizer, trim = watched(model, torch.optim.AdamW(model.parameters(), fused=True))
        with torch.autocast("cpu", torch.bfloat16):
            loss = token_loss(model, 0)
        loss.backward()
        optimizer.step()
        _, columns = trim.history[-1].tables["modules"]
        assert np.isfinite(columns["activation.rms"]).all()
        trim.detach()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_a_model_on_several_dtypes(self, dtype):
        model = fill(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
        model[1].to(dtype)
        optimizer, trim = watched(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
        for _ in range(2):
            optimizer.zero_grad()
            model[1](model[0](torch.ones(2, 4)).to(dtype)).float().square().mean().backward()
            optimizer.step()
        _, columns = trim.history[-1].tables["parameters"]
        assert all(np.isfinite(v).all() for v in columns.values())
        trim.detach()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_does_not_overflow_in_a_statistic(self, dtype):
        class Loud(nn.Module):
            def forward(self, x):
                return x.to(dtype) * 6e4

        model = nn.Sequential(fill(nn.Linear(4, 4)), Loud())
        optimizer, trim = watched(model)
        x = model[0](torch.ones(64, 4))
        (model[1](x * 0 + 1) * 0 + x).float().mean().backward()
        optimizer.step()
        expected = float(torch.tensor(6e4, dtype=dtype))
        for name in ("mean", "rms", "max"):
            assert row(trim, "modules", "1", f"activation.{name}") == pytest.approx(expected)
        assert row(trim, "modules", "1", "activation.nonfinite_fraction") == 0
        trim.detach()

    def test_complex_and_empty_parameters(self):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.phase = nn.Parameter(torch.randn(4, dtype=torch.complex64))
                self.none = nn.Parameter(torch.zeros(0, 3))

            def forward(self, x):
                return (self.phase * x).abs() + self.none.sum()

        model = Odd()
        optimizer, trim = watched(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
        for _ in range(2):
            step_once(model, optimizer, torch.ones(2, 4))
        rms = row(trim, "parameters", "phase", "gradient.rms")
        norm = row(trim, "parameters", "phase", "gradient.norm")
        assert rms == pytest.approx(norm / 8**0.5)
        assert row(trim, "parameters", "phase", "update.ratio") > 0
        trim.detach()

    def test_accumulation(self):
        """The norm is that of the whole window, the loss the mean over it."""
        model = fill(nn.Linear(3, 1))
        optimizer, trim = watched(model, clip=None)
        for _ in range(2):
            losses = []
            for i in range(4):
                loss = trim.loss(model(torch.ones(2, 3) * (i + 1)).square().mean() / 4)
                loss.backward()
                losses.append(loss.item())
            optimizer.step()
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            optimizer.zero_grad()
            assert trim.history[-1].values["gradient.norm"] == pytest.approx(norm.item())
            assert trim.history[-1].values["loss"] == pytest.approx(np.mean(losses))
        assert trim.steps == 2
        trim.detach()

    def test_evaluation_between_steps_is_not_recorded(self):
        model = fill(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
        optimizer, trim = watched(model, watch=1)
        x = torch.ones(2, 3)
        optimizer.zero_grad()
        loss = trim.loss(model(x).mean())
        expected = model[0](x).mean().item()
        model.eval()
        with torch.no_grad():
            trim.loss(model(x * 1e3).mean())
        model(x * 1e4)
        model.train()
        with torch.no_grad():
            model(x * 1e5)
        with torch.inference_mode():
            model(x * 1e6)
        loss.backward()
        optimizer.step()
        assert row(trim, "modules", "0", "activation.mean") == pytest.approx(expected)
        assert trim.history[-1].values["loss"] == pytest.approx(loss.item())
        trim.detach()

    def test_learning_rates_change(self):
        model = nn.Linear(3, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        _, trim = watched(model, optimizer)
        for _ in range(3):
            step_once(model, optimizer, torch.ones(2, 3))
            schedule.step()
        assert [r.values["learning_rate"] for r in trim.history] == [1.0, 0.5, 0.25]
        trim.detach()

    def test_a_learning_rate_that_is_a_tensor(self):
        model = nn.Linear(3, 1)
        lr = torch.tensor(0.125)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
        _, trim = watched(model, optimizer)
        step_once(model, optimizer, torch.ones(2, 3))
        assert trim.history[-1].values["learning_rate"] == 0.125
        trim.detach()

    @pytest.mark.parametrize("kind", ["adamw-fused", "sgd"])
    def test_param_groups_added_later(self, kind):
        model = fill(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
        optimizer = OPTIMIZERS[kind](model[1].parameters())
        _, trim = watched(model, optimizer)
        for step in range(4):
            if step == 2:
                optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 1e-3})
            step_once(model, optimizer, torch.ones(2, 3))
        assert list(trim.history[1].tables["parameters"][0]) == ["1.weight", "1.bias"]
        sites = ["1.weight", "1.bias", "0.weight", "0.bias"]
        assert list(trim.history[-1].tables["parameters"][0]) == sites
        assert row(trim, "parameters", "0.weight", "update.ratio") > 0
        assert row(trim, "parameters", "0.weight", "gradient.norm") > 0
        trim.detach()

    def test_a_model_without_watched_modules(self):
        model = nn.Sequential(nn.Sequential())
        model.scale = nn.Parameter(torch.ones(3))
        optimizer, trim = watched(model, watch=1)
        (model(torch.ones(3)) * model.scale).sum().backward()
        optimizer.step()
        assert "modules" not in trim.history[-1].tables
        trim.detach()

    def test_functional_transforms(self):
        """torch.func differentiates through the module; its tensors cannot be kept."""
        model = fill(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
        optimizer, trim = watched(model)
        params = {k: v.detach() for k, v in model.named_parameters()}

        def loss(params, x):
            return torch.func.functional_call(model, params, (x,)).square().mean()

        grads = torch.func.grad(loss)(params, torch.ones(2, 3))
        per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, torch.ones(5, 3))
        assert per_sample["0.weight"].shape == (5, 3, 3)
        for name, p in model.named_parameters():
            p.grad = grads[name]
        optimizer.step()
        assert trim.steps == 1
        trim.detach()


class TestCopies:
    def test_a_deep_copy_trains_unwatched(self):
        model = fill(TokenMixer())
        optimizer, trim = watched(model)
        train_tokens(model, optimizer, 1)
        twin = copy.deepcopy(model)
        model_before = len(trim.history)
        samples = trim.recorder.taps.samples.clone()
        train_tokens(twin, torch.optim.SGD(twin.parameters(), lr=0.1), 2)
        assert len(trim.history) == model_before
        assert_same(trim.recorder.taps.samples, samples)
        trim.detach()

    @pytest.mark.parametrize("holds_trim", [False, True])
    def test_pickling_the_model(self, holds_trim):
        model = fill(TokenMixer())
        optimizer, trim = watched(model)
        if holds_trim:  # as a LightningModule might
            model.trim = trim
        train_tokens(model, optimizer, 1)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        for twin in (
            torch.load(file, weights_only=False),
            pickle.loads(pickle.dumps(model)),
            copy.deepcopy(model),
        ):
            assert_same(values(twin), values(model))
            train_tokens(twin, torch.optim.SGD(twin.parameters(), lr=0.1), 1)
        assert trim.steps == 1
        trim.detach()

    def test_states_are_those_of_the_bare_model(self):
        model = fill(TokenMixer())
        optimizer = torch.optim.AdamW(model.parameters())
        keys = list(model.state_dict()), list(optimizer.state_dict())
        _, trim = watched(model, optimizer)
        train_tokens(model, optimizer, 1)
        assert (list(model.state_dict()), list(optimizer.state_dict())) == keys
        trim.detach()


class TestSeveralOptimizers:
    def test_each_is_measured_clipped_and_protected_by_itself(self):
        model = fill(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
        first = torch.optim.AdamW(model[0].parameters(), lr=1e-2, fused=True)
        second = torch.optim.SGD(model[1].parameters(), lr=1e-2, momentum=0.9)
        trim = attach(model, [first, second], clip=0.1, out=None, watch=5)
        for _ in range(10):
            first.zero_grad(), second.zero_grad()
            trim.loss(model(torch.ones(4, 3)).square().mean()).backward()
            first.step()
            second.step()
        assert trim.steps == 20
        tables = [(r.step, set(r.tables)) for r in trim.history if r.tables]
        # Steps 1, 5 and 10 of each; the modules with those of the first.
        both, one = {"parameters", "modules"}, {"parameters"}
        assert tables[0] == (1, {*both, "histograms"})
        assert tables[1] == (2, {*one, "histograms"})
        assert tables[2:] == [(9, both), (10, one), (19, both), (20, one)]
        assert list(trim.history[-2].tables["parameters"][0]) == ["0.weight", "0.bias"]
        assert list(trim.history[-1].tables["parameters"][0]) == ["1.weight", "1.bias"]
        assert row(trim, "parameters", "1.weight", "update.ratio") > 0
        trim.detach()

    def test_what_clippers_remember_does_not_mix(self):
        model = fill(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.0) for m in model]
        trim = attach(model, optimizers, clip=ZClip(warmup_steps=3), out=None, watch=False)
        for _ in range(12):
            for i, optimizer in enumerate(optimizers):  # norms of 1 and 1000
                for p in model[i].parameters():
                    p.grad = torch.full_like(p, 1000.0**i)
                optimizer.step()
        assert [r.values["gradient.clip_coefficient"] for r in trim.history] == [1.0] * 24
        state = trim.state_dict()
        assert len(state["clippers"]) == 2
        trim.load_state_dict(state)
        trim.detach()

    @pytest.mark.parametrize("named", [lambda o: [], lambda o: [o, o], lambda o: "adam"])
    def test_bad_lists(self, named):
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ConfigError, match=r"empty list|names one SGD twice|got str"):
            attach(model, named(optimizer), out=None)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("clip", ["none", "norm", "zclip", "adaptive"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_gradient_that_is_not_finite_touches_nothing(kind, clip, bad, at_once):
    model = fill(TokenMixer())
    optimizer = OPTIMIZERS[kind](model.parameters())
    _, trim = watched(model, optimizer, clip=CLIPPERS[clip](model), watch=1)
    trim.recorder.at_once = at_once
    for hooks in trim._hooks:
        hooks._updater.at_once = at_once
    train_tokens(model, optimizer, 3)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), trim.state_dict()))

    optimizer.zero_grad()
    token_loss(model, 0).backward()
    model.head.weight.grad[2, 1] = bad
    grads = [p.grad for p in model.parameters()]
    optimizer.step()
    trim.sync()

    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert_same((model.state_dict(), optimizer.state_dict()), before[:2])
    assert (trim.skipped_steps, trim.steps) == (1, 4)
    assert trim.history[-1].values["step.skipped"] == 1
    after = trim.state_dict()
    assert_same(after.get("clippers", []), before[2].get("clippers", []))
    parts = [(s["recorder"]["parts"][0]) for s in (before[2], after)]
    assert parts[0]["recent_norms"] == parts[1]["recent_norms"]
    assert parts[0]["noise"] == parts[1]["noise"]
    assert torch.isfinite(after["recorder"]["drift"]).all()

    train_tokens(model, optimizer, 2)
    trim.sync()
    assert (trim.skipped_steps, trim.steps) == (1, 6)
    assert not trim.history[-1].values["step.skipped"]
    assert all(p.isfinite().all() for p in model.parameters())
    trim.detach()


class TestSkipping:
    def test_endless_skipping_ends_with_a_message(self):
        model = fill(nn.Linear(3, 1))
        optimizer, trim = watched(model, max_skips=2)
        before = values(model)
        for _ in range(2):
            step_once(model, optimizer, torch.full((2, 3), torch.nan))
        with pytest.raises(DivergedError, match="3 steps in a row had a gradient"):
            step_once(model, optimizer, torch.full((2, 3), torch.nan))
        assert_same(values(model), before)
        assert trim.skipped_steps == 3
        trim.detach()

    def test_only_steps_in_a_row_count(self):
        model = fill(nn.Linear(3, 1))
        optimizer, trim = watched(model, max_skips=1)
        for x in (torch.nan, 1.0, torch.nan, 1.0):
            step_once(model, optimizer, torch.full((2, 3), x))
        assert (trim.steps, trim.skipped_steps) == (4, 2)
        trim.detach()

    @pytest.mark.parametrize("kind", ["adamw-fused", "sgd"])
    @pytest.mark.parametrize("at_once", [True, False])
    def test_without_protection_the_bare_loop_is_kept(self, kind, at_once):
        bare, model = fill(nn.Linear(3, 1)), fill(nn.Linear(3, 1))
        theirs = OPTIMIZERS[kind](bare.parameters())
        optimizer = OPTIMIZERS[kind](model.parameters())
        _, trim = watched(model, optimizer, guard=None, clip=None)
        trim._hooks[0]._updater.at_once = at_once
        for x in (1.0, torch.nan):
            step_once(bare, theirs, torch.full((2, 3), x))
            step_once(model, optimizer, torch.full((2, 3), x))
        assert_same(values(model), values(bare))
        assert trim.skipped_steps == 0
        trim.detach()


class Fragile(nn.Module):
    """A batch norm, dropout, and a layer that makes NaN of what is below zero."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.inp = nn.BatchNorm1d(3), nn.Dropout(0.3), nn.Linear(3, 8)
        self.root, self.out = Root(), nn.Linear(8, 1)

    def forward(self, x):
        return self.out(self.root(self.inp(self.drop(self.norm(x[:, :3]))), x[:, 3:]))


class Root(nn.Module):
    def forward(self, h, more):
        return h * more.sqrt()


def fragile_batch(step, bad=False):
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(step)) + 0.1
    if bad:
        x[4, 3] = -1.0
    return x


def train_fragile(model, optimizer, trim=None, bad=(2, 4)):
    """Train with dropout from a fixed global seed, as a bare loop that skips by itself would."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        for step in range(6):
            optimizer.zero_grad()
            loss = model(fragile_batch(step, step in bad)).square().mean()
            (loss if trim is None else trim.loss(loss)).backward()
            if trim is not None or step not in bad:
                optimizer.step()


class TestSourceOfNonfinite:
    def sources(self, trim):
        found = []
        trim.recorder.on_nonfinite.append(lambda step, source: found.append((step, source)))
        return found

    @pytest.mark.parametrize("kind", ["adamw-fused", "sgd"])
    def test_listeners_and_run_folder_get_it(self, kind, tmp_path):
        model = fill(Fragile())
        optimizer, trim = watched(model, OPTIMIZERS[kind](model.parameters()), out=tmp_path)
        found = self.sources(trim)
        train_fragile(model, optimizer, trim)
        assert [(step, s.kind, s.site, s.row, s.num_rows) for step, s in found] == [
            (3, "activation", "root", 4, 1),
            (5, "activation", "root", 4, 1),
        ]
        event = next(e for e in trim.run().events() if e["kind"] == "nonfinite")
        assert {k: event[k] for k in ("step", "site", "row", "num_rows", "what", "text")} == {
            "step": 3,
            "site": "root",
            "row": 4,
            "num_rows": 1,
            "what": "activation",
            "text": "output of root, row 4 of the batch",
        }
        trim.detach()

    @pytest.mark.parametrize("watch", [EVERYTHING, False])
    def test_looking_for_it_is_bitwise_not_looking(self, watch):
        """Weights are those of the bare loop; statistics are of the steps that were made."""
        bare, model = fill(Fragile()), fill(Fragile())
        train_fragile(bare, OPTIMIZERS["adamw-fused"](bare.parameters()))
        optimizer, trim = watched(
            model, OPTIMIZERS["adamw-fused"](model.parameters()), clip=None, watch=watch
        )
        found = self.sources(trim)
        train_fragile(model, optimizer, trim)
        assert len(found) == 2
        assert_same(dict(model.named_parameters()), dict(bare.named_parameters()))
        assert model.norm.num_batches_tracked == bare.norm.num_batches_tracked - 2
        assert model.norm.running_mean.isfinite().all()
        trim.detach()

    def test_a_run_that_is_not_protected_is_looked_at_before_the_weights_are_lost(self):
        model = fill(Fragile())
        optimizer, trim = watched(model, guard=None)
        found = self.sources(trim)
        train_fragile(model, optimizer, trim, bad=(2,))
        assert found[0][1].site == "root"
        assert found[1][1].kind == "parameter"  # of which the loop made NaN
        trim.detach()

    @pytest.mark.parametrize("noted", [True, False])
    def test_a_loss_or_a_gradient_to_blame(self, noted):
        model = fill(nn.Linear(3, 1))
        optimizer, trim = watched(model)
        found = self.sources(trim)
        loss = model(torch.ones(2, 3)).mean() * torch.nan
        (trim.loss(loss) if noted else loss).backward()
        optimizer.step()
        assert str(found[0][1]) == ("the loss" if noted else "gradient of bias")
        trim.detach()

    def test_only_so_often(self):
        model = fill(Fragile())
        optimizer, trim = watched(model)
        found = self.sources(trim)
        train_fragile(model, optimizer, trim, bad=range(6))
        assert len(found) == 3
        trim.detach()

    @pytest.mark.parametrize("fused", [True, False])
    def test_on_an_accelerator_only_if_the_host_gets_to_know(self, fused, no_host_sync):
        model = fill(Fragile())
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        _, trim = watched(model, optimizer)
        trim.recorder.at_once = trim._hooks[0]._updater.at_once = False
        found = self.sources(trim)
        train_fragile(model, optimizer, trim)
        assert len(found) == (0 if fused else 2)
        trim.detach()

    def test_an_overflow_of_the_loss_scale_is_none(self):
        model = fill(nn.Linear(3, 1))
        optimizer, trim = watched(model, torch.optim.AdamW(model.parameters(), fused=True))
        found = self.sources(trim)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        for _ in range(4):
            optimizer.zero_grad()
            loss = trim.loss(model(torch.ones(2, 3) * 100).square().mean())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert trim.skipped_steps > 0
        assert not found
        trim.detach()


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_skips": 0}, "max_skips must be a whole number"),
            ({"max_skips": True}, "max_skips must be a whole number"),
            ({"clip": -1.0}, "-1"),
            ({"clip": "1"}, "clip"),
            ({"watch": "all"}, "watch must be"),
            ({"watch": -1}, "0 or more"),
        ],
    )
    def test_arguments(self, options, message):
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = snapshot(model, optimizer)
        with pytest.raises(ConfigError, match=message):
            attach(model, optimizer, **({"out": None} | options))
        assert snapshot(model, optimizer) == before

    def test_optimizer_of_another_model(self):
        optimizer = torch.optim.SGD(nn.Linear(3, 1).parameters(), lr=0.1)
        with pytest.raises(ConfigError, match="no parameter of this model"):
            attach(nn.Linear(3, 1), optimizer, out=None)


def test_warnings_are_not_given_in_health():
    model = fill(TokenMixer())
    optimizer, trim = watched(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_tokens(model, optimizer, 3)
    trim.detach()
