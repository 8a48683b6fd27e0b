import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.nn import softcap


def test_matches_the_formula_in_float64(generator):
    x = 100 * torch.randn(1000, generator=generator)

    expected = 30 * torch.tanh(x.double() / 30)

    torch.testing.assert_close(softcap(x, 30.0), expected.float())


def test_keeps_small_values_and_bounds_large_ones():
    x = torch.tensor([-1e9, -0.1, 0.0, 0.1, 1e9])

    torch.testing.assert_close(
        softcap(x, 50.0), torch.tensor([-50, -0.1, 0, 0.1, 50]), atol=1e-6, rtol=0
    )


def test_gradient_is_finite_for_huge_logits():
    x = torch.tensor([1e30, -1e30, 0.0], requires_grad=True)

    softcap(x, 50.0).sum().backward()

    assert x.grad.tolist() == [0, 0, 1]


def test_keeps_the_dtype():
    assert softcap(torch.ones(2, dtype=torch.bfloat16), 5.0).dtype == torch.bfloat16


def test_refuses_a_cap_that_is_not_positive():
    with pytest.raises(ConfigError, match="cap must be finite and positive, got 0"):
        softcap(torch.ones(1), 0)
