import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.nn import GPT
from trimtab.signals import NonfiniteSource, locate_nonfinite, locate_nonfinite_gradient

NAN, INF = math.nan, math.inf


class Faulty(nn.Module):
    """Three layers; `fault` is applied to what comes out of the second for some rows."""

    def __init__(self, fault=None, rows=()):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))
        self.middle = Middle(fault, rows)

    def forward(self, x, scale=None):
        h = self.middle(self.b(self.a(x)))
        return self.c(h if scale is None else h * scale)


class Middle(nn.Module):
    def __init__(self, fault, rows):
        super().__init__()
        self.fault, self.rows = fault, list(rows)

    def forward(self, x):
        if self.fault is None:
            return x
        out = x.clone()
        out[self.rows] = self.fault
        return out


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def poisoned(rows, value=NAN):
    x = X.clone()
    x[list(rows), 1] = value
    return x


class TestInput:
    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    def test_comes_first(self, value):
        source = locate_nonfinite(Faulty(NAN, [0]), (poisoned([3, 4], value),))
        assert source == NonfiniteSource(
            kind="input", site="x", row=3, num_rows=2, inputs_finite=False
        )
        assert str(source) == "argument x of the model, row 3 and 1 more of the batch"

    def test_all_rows(self):
        source = locate_nonfinite(Faulty(), (poisoned(range(5)),))
        assert (source.row, source.num_rows) == (None, 5)
        assert str(source) == "argument x of the model, all 5 rows of the batch"

    def test_a_keyword(self):
        source = locate_nonfinite(Faulty(), (X,), {"scale": torch.tensor(INF)})
        assert (source.kind, source.site, source.row, source.num_rows) == (
            "input",
            "scale",
            None,
            0,
        )

    def test_a_mask_of_minus_infinity_is_none(self):
        class Masked(nn.Module):
            def forward(self, x, mask):
                return (x + mask).softmax(dim=-1)

        mask = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), -INF)
        assert locate_nonfinite(Masked(), (torch.ones(3, 3), mask)) is None

    def test_what_is_minus_infinity_throughout_is_no_mask(self):
        """As the logarithm of an empty picture."""
        source = locate_nonfinite(Faulty(), (torch.full((2, 3), -INF),))
        assert source.kind == "input"


class TestParameter:
    def test_comes_before_the_output_of_its_module(self):
        model = Faulty(NAN, [0])
        with torch.no_grad():
            model.b.weight[1, 2] = NAN
            model.c.bias[0] = INF
        source = locate_nonfinite(model, (X,))
        assert source == NonfiniteSource(kind="parameter", site="b.weight")
        assert str(source) == "parameter b.weight"

    def test_of_a_part_that_was_never_called(self):
        class Direct(nn.Module):
            def __init__(self):
                super().__init__()
                self.part = nn.Linear(3, 3)

            def forward(self, x):
                return nn.functional.linear(x, self.part.weight)

        model = Direct()
        with torch.no_grad():
            model.part.weight[0, 0] = NAN
        assert locate_nonfinite(model, (X,)).site == "part.weight"


class TestActivation:
    @pytest.mark.parametrize("value", [NAN, INF])
    def test_site_and_row(self, value):
        source = locate_nonfinite(Faulty(value, [2]), (X,))
        assert source == NonfiniteSource(kind="activation", site="middle", row=2, num_rows=1)
        assert str(source) == "output of middle, row 2 of the batch"

    def test_between_two_modules(self):
        class Between(nn.Module):
            def __init__(self):
                super().__init__()
                self.last = nn.Linear(3, 3)

            def forward(self, x):
                return self.last((x - 10).log())

        source = locate_nonfinite(Between(), (X,))
        assert (source.kind, source.site, source.inputs_finite) == ("activation", "last", False)

    def test_in_an_overflow_of_half_precision(self):
        model = Faulty()
        with torch.no_grad():
            model.b.weight.fill_(1e5)
        assert locate_nonfinite(model, (X,)) is None
        with torch.autocast("cpu", torch.float16):
            source = locate_nonfinite(model, (X,))
        assert (source.kind, source.site) == ("activation", "b")

    def test_an_output_without_rows_of_the_batch(self):
        class Mean(nn.Module):
            def forward(self, x):
                return x.mean() / 0

        source = locate_nonfinite(nn.Sequential(Mean()), (X,))
        assert (source.site, source.row, source.num_rows) == ("0", None, 0)

    def test_what_raises_afterwards_is_its_consequence(self):
        class Strict(nn.Module):
            def forward(self, x):
                if not x.isfinite().all():
                    raise FloatingPointError("not finite")
                return x

        model = nn.Sequential(Faulty(NAN, [1]), Strict())
        assert locate_nonfinite(model, (X,)).site == "0.middle"

    def test_in_a_transformer(self):
        model = GPT(11, dim=16, depth=3, num_heads=2, max_len=8)
        with torch.no_grad():
            model.get_parameter(deep := "blocks.1." + _norm_weight(model)).fill_(INF)
        source = locate_nonfinite(model, (torch.zeros(2, 8, dtype=torch.long),))
        assert (source.kind, source.site) == ("parameter", deep)


def _norm_weight(model):
    names = [n for n, _ in model.get_submodule("blocks.1").named_parameters()]
    return next(n for n in names if "norm" in n)


class TestHealth:
    def test_there_is_no_source(self):
        assert locate_nonfinite(Faulty(), (X,)) is None

    @pytest.mark.parametrize("wrap", [torch.compile, lambda m: m])
    def test_a_compiled_model_is_run_as_it_is(self, wrap):
        torch.compiler.reset()
        model = Faulty(NAN, [4])
        called = torch.compile(model, backend="eager") if wrap is torch.compile else model
        if called is model:
            model.compile(backend="eager")
        called(X)
        assert locate_nonfinite(called, (X,)).site == "middle"
        torch.compiler.reset()


class Restless(nn.Module):
    """Changes all that a forward pass can change, and may raise."""

    def __init__(self, *, raises):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        self.register_buffer("count", torch.tensor([1.0, NAN, -0.0]))
        self.register_buffer("replaced", torch.zeros(2))
        self.raises = raises

    def forward(self, x):
        self.count += 1
        self.replaced = self.replaced + 1
        self.drop.eval()
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002 # as users do
        y = self.spectral(self.drop(self.norm(x)))
        if self.raises:
            raise ValueError("on purpose")
        return y


@pytest.mark.parametrize("raises", [True, False])
def test_everything_is_put_back(raises):
    model = Restless(raises=raises)
    objects = dict(model.named_buffers())
    before = copy.deepcopy(dict(model.named_buffers()))
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    if raises:
        with pytest.raises(ValueError, match="on purpose"):
            locate_nonfinite(model, (X,))
    else:
        assert locate_nonfinite(model, (X,)) is None
    assert all(b is objects[n] for n, b in model.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(buffer.signbit(), before[name].signbit())
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    np.testing.assert_equal(np.random.get_state(), state[2])  # noqa: NPY002
    assert all(m.training for m in model.modules())
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert after == hooks
    assert all(p.grad is None for p in model.parameters())


def test_a_backward_pass_that_is_still_to_come():
    """A frozen batch norm keeps its statistics for it."""
    model = nn.Sequential(nn.BatchNorm1d(3).eval(), nn.BatchNorm1d(3))
    loss = model(X).square().mean()
    assert locate_nonfinite(model, (X,)) is None
    loss.backward()


class TestGradient:
    def test_the_one_nearest_to_the_output(self):
        model = Faulty()
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        assert locate_nonfinite_gradient(model.named_parameters()) is None
        model.a.weight.grad[0, 0] = NAN
        model.b.bias.grad[0] = INF
        assert locate_nonfinite_gradient(model.named_parameters()) == "b.bias"

    def test_by_the_order_of_the_forward_pass(self):
        model = Faulty()
        for p in model.parameters():
            p.grad = torch.full_like(p, NAN)
        order = ["c", "b", "a", "model"]
        assert locate_nonfinite_gradient(model.named_parameters(), order) == "a.bias"

    def test_sparse_and_missing_gradients(self):
        model = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1))
        places, values = [[1, 1]], [[1.0, NAN], [0.0, 0.0]]
        grad = torch.sparse_coo_tensor(places, values, (5, 2), check_invariants=True)
        model[0].weight.grad = grad
        assert locate_nonfinite_gradient(model.named_parameters()) == "0.weight"

    def test_names_have_no_wrappers(self):
        p = nn.Parameter(torch.ones(1))
        p.grad = torch.full((1,), NAN)
        assert locate_nonfinite_gradient([("module._orig_mod.a.weight", p)]) == "a.weight"
