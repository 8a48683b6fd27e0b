import pytest
import torch
from torch.nn import functional

from trimtab.nn._capped_attention import capped_attention


@pytest.mark.parametrize("causal", [False, True])
def test_a_huge_cap_equals_pytorch(causal, generator):
    q, k, v = torch.randn(3, 2, 3, 9, 8, generator=generator)

    expected = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    torch.testing.assert_close(capped_attention(q, k, v, cap=1e6, causal=causal), expected)


def test_the_cap_bounds_how_far_weights_can_differ():
    q = torch.tensor([[[[1e4]]]])
    k = torch.tensor([[[[1e4], [-1e4]]]])
    v = torch.tensor([[[[1.0], [0.0]]]])

    weight = capped_attention(q, k, v, cap=2.0).item()

    assert weight == pytest.approx(torch.sigmoid(torch.tensor(4.0)).item())
