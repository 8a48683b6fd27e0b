import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimtab.errors import ConfigError
from trimtab.optim._norms import DOT_MIN_ELEMENTS, GradNorms, grad_norms

ORDERS = [1, 2, 3, math.inf, 0.5]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
PRECISION = {torch.float64: 1e-13, torch.complex128: 1e-13}
"""Relative error allowed; 1e-6 for the others."""


def reference(grads, p):
    """Norms by their definition, in float64."""
    each = []
    for grad in grads:
        sizes = grad.to(torch.complex128 if grad.is_complex() else torch.float64).abs().flatten()
        if p == math.inf:
            each.append(max(sizes.tolist(), default=0.0))
        else:
            each.append(float((sizes**p).sum() ** (1 / p)))
    total = max(each, default=0.0) if p == math.inf else sum(e**p for e in each) ** (1 / p)
    return total, each


def with_grads(*grads):
    params = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for p, grad in zip(params, grads, strict=True):
        p.grad = grad
    return params


def sparse(*rows, size=6):
    """An uncoalesced gradient of two columns with entries in these rows."""
    values = torch.arange(1.0, 2 * len(rows) + 1).view(len(rows), 2)
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (size, 2), check_invariants=True)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_definition_in_float64(make_params, no_host_sync, p, dtype):
    params = make_params([(8, 3), (5,), (1,)], dtype)
    total, each = reference([q.grad for q in params], p)

    with no_host_sync():
        norms = grad_norms(params, p)

    tolerance = PRECISION.get(dtype, 1e-6)
    assert norms.total.item() == pytest.approx(total, rel=tolerance)
    assert norms.each.tolist() == pytest.approx(each, rel=tolerance)
    assert norms.total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("p", ORDERS)
def test_matches_torch(make_params, p):
    params = make_params([(8, 3), (5,), (2, 2, 2)])

    expected = nn.utils.get_total_norm([q.grad for q in params], p)

    torch.testing.assert_close(grad_norms(params, p).total, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_summed_up_in_float32(dtype):
    """A sum of 10,000 ones stops at 256 in bfloat16; 300 squared overflows float16."""
    (ones,) = with_grads(torch.ones(10_000, dtype=dtype))
    (large,) = with_grads(torch.full((4,), 300.0, dtype=dtype))

    assert float(grad_norms(ones)) == 100
    assert float(grad_norms(large)) == 600


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("offset", [-1, 0, 1, 17])
def test_large_tensors_beside_small_ones(generator, dtype, offset):
    """Those from `DOT_MIN_ELEMENTS` on go another way; the order of the norms stays."""
    sizes = [3, DOT_MIN_ELEMENTS + offset, 0, 2 * DOT_MIN_ELEMENTS, 5]
    grads = [torch.randn(n, generator=generator, dtype=dtype) for n in sizes]
    total, each = reference(grads, 2)

    norms = grad_norms(with_grads(*grads))

    assert float(norms) == pytest.approx(total, rel=PRECISION.get(dtype, 1e-6))
    assert norms.each.tolist() == pytest.approx(each, rel=PRECISION.get(dtype, 1e-6))


LAYOUTS = {
    "transposed": lambda t: t.t(),
    "every-second-column": lambda t: t[:, ::2],
    "a-few-columns": lambda t: t[:, 3:],
    "one-row-for-all": lambda t: t[:1].expand(t.shape),
    "channels-last": lambda t: t.view(2, 64, 16, -1).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_gradients_in_any_memory_layout(generator, layout):
    grad = LAYOUTS[layout](torch.randn(512, 2 * DOT_MIN_ELEMENTS // 512, generator=generator))
    (p,) = with_grads(grad)
    assert p.grad is grad
    assert not grad.is_contiguous()

    # torch adds up strided float32 one by one, which costs digits
    assert float(grad_norms(p)) == pytest.approx(reference([grad], 2)[0], rel=1e-4)


@pytest.mark.parametrize("p", ORDERS)
def test_entries_of_one_place_of_a_sparse_gradient_are_added_first(p):
    """Rows 1 and 1 stand for their sum, as autograd leaves them for a repeated token."""
    grads = [sparse(4, 1, 1), torch.ones(3)]

    norms = grad_norms(with_grads(*grads), p)

    total, each = reference([g.to_dense() for g in grads], p)
    assert float(norms) == pytest.approx(total)
    assert norms.each.tolist() == pytest.approx(each)
    assert not grads[0].is_coalesced()


def test_gradients_of_every_kind_together():
    """Each kind is measured by itself; the norms come in the order of the parameters."""
    grads = [
        torch.full((4,), 2.0, dtype=torch.float64),
        torch.full((9,), 1.0, dtype=torch.bfloat16),
        sparse(2),
        torch.full((1,), 12.0),
        torch.full((1,), 3 + 4j, dtype=torch.complex64),
        torch.full((4,), 3.0, dtype=torch.float64),
    ]

    norms = grad_norms(with_grads(*grads))

    assert norms.each.tolist() == pytest.approx([4, 3, math.sqrt(5), 12, 5, 6])
    assert norms.total.dtype == torch.float64
    assert float(norms) == pytest.approx(math.sqrt(16 + 9 + 5 + 144 + 25 + 36))


@pytest.mark.parametrize("p", ORDERS)
def test_no_gradient_is_zero(p):
    for params in ([], iter(()), [nn.Parameter(torch.ones(3))]):
        norms = grad_norms(params, p)
        assert float(norms) == 0
        assert norms.each.shape == (0,)


@pytest.mark.parametrize("p", ORDERS)
def test_a_gradient_without_elements_is_zero(p):
    norms = grad_norms(with_grads(torch.empty(0, 3), torch.tensor([3.0])), p)
    assert norms.each.tolist() == [0, 3]
    assert float(grad_norms(with_grads(torch.zeros(6, 2).to_sparse(1)), p)) == 0


def test_parameters_without_gradient_are_passed_over():
    first, second = with_grads(torch.tensor([3.0]), torch.tensor([4.0]))
    norms = grad_norms([first, nn.Parameter(torch.ones(9)), second])
    assert norms.each.tolist() == [3, 4]
    assert float(norms) == 5


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [3, DOT_MIN_ELEMENTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_value_that_is_not_finite_shows(p, bad, size, dtype):
    grads = [torch.ones(2, dtype=dtype), torch.ones(size, dtype=dtype)]
    grads[1][size // 2] = bad

    norms = grad_norms(with_grads(*grads), p)

    assert norms.each.isfinite().tolist() == [True, False]
    assert norms.total.isnan() if math.isnan(bad) else norms.total == math.inf


def test_a_generator_is_enough(make_params):
    params = make_params([(2, 2), (3,)])
    assert float(grad_norms(p for p in params)) == float(grad_norms(params))


def test_a_parameter_of_one_number():
    norms = grad_norms(with_grads(torch.tensor(-3.0), torch.tensor(4.0)))
    assert norms.each.tolist() == [3, 4]
    assert float(norms) == 5


def test_a_single_tensor_is_one_parameter(make_params):
    (p,) = make_params([(4, 2)])
    norms = grad_norms(p)
    assert norms.each.shape == (1,)
    torch.testing.assert_close(norms.total, p.grad.norm())


def test_gradients_stay_as_they_are(make_params):
    params = make_params([(8, 3), (5,)])
    before = [p.grad.clone() for p in params]
    norms = grad_norms(params)
    assert all(torch.equal(p.grad, b) for p, b in zip(params, before, strict=True))
    assert not norms.total.requires_grad


@settings(deadline=None, max_examples=60)
@given(
    grads=st.lists(st.lists(st.floats(-1e3, 1e3, width=32), max_size=9), min_size=1, max_size=5),
    p=st.sampled_from(ORDERS),
)
def test_any_gradients(grads, p):
    tensors = [torch.tensor(g, dtype=torch.float64) for g in grads]
    total, each = reference(tensors, p)
    norms = grad_norms(with_grads(*tensors), p)
    assert float(norms) == pytest.approx(total, rel=1e-9, abs=1e-18)
    assert norms.each.tolist() == pytest.approx(each, rel=1e-9, abs=1e-18)


class TestBadInput:
    @pytest.mark.parametrize("p", [0, -1, math.nan, -math.inf, True, "2", None, torch.tensor(2.0)])
    def test_norm_type(self, make_params, p):
        with pytest.raises(ConfigError, match="norm_type must be a number above 0"):
            grad_norms(make_params([(2,)]), p)

    def test_a_module(self):
        with pytest.raises(ConfigError, match=r"got Linear\. For a module, pass module.parameters"):
            grad_norms(nn.Linear(2, 2))

    def test_named_parameters(self):
        with pytest.raises(ConfigError, match=r"Pass parameters\(\), not named_parameters\(\)"):
            grad_norms(nn.Linear(2, 2).named_parameters())

    @pytest.mark.parametrize("params", [5, None, "weight", [None]])
    def test_other_things(self, params):
        with pytest.raises(ConfigError, match="tensors"):
            grad_norms(params)


def test_the_result_is_a_tuple():
    total, each = GradNorms(torch.tensor(5.0), torch.tensor([3.0, 4.0]))
    assert (total, each.tolist()) == (5, [3, 4])
