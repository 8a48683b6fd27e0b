import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.nn import RotaryEmbedding


def rotate_complex(x, base=10_000.0):
    """The same rotation as products of complex numbers, in float64."""
    time, head_dim = x.shape[1], x.shape[-1]
    first, second = x.double().chunk(2, dim=-1)
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(time, dtype=torch.float64)[:, None] * frequency  # (time, head_dim / 2)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.parametrize("base", [100.0, 10_000.0])
def test_matches_complex_rotation(base, generator):
    x = torch.randn(2, 300, 3, 8, generator=generator)

    y = RotaryEmbedding(8, 300, base=base)(x)

    torch.testing.assert_close(y, rotate_complex(x, base).float(), atol=1e-5, rtol=1e-5)


def test_inner_products_depend_on_the_distance_alone(generator):
    q, k = torch.randn(2, 8, generator=generator)
    rope = RotaryEmbedding(8, 64)
    queries = rope(q.expand(1, 64, 1, 8))[0, :, 0]  # (64, 8)
    keys = rope(k.expand(1, 64, 1, 8))[0, :, 0]

    scores = queries @ keys.T  # (64, 64)

    for distance in (-20, 0, 7):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_keeps_norms_and_leaves_position_zero(generator):
    x = torch.randn(2, 50, 3, 16, generator=generator)

    y = RotaryEmbedding(16, 50)(x)

    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[:, 0], x[:, 0])


def test_late_positions_are_exact_in_bfloat16(generator):
    x = torch.randn(1, 4096, 1, 64, generator=generator).bfloat16()

    y = RotaryEmbedding(64, 4096)(x)

    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, rotate_complex(x).bfloat16(), atol=1e-2, rtol=1e-2)


def test_tables_stay_out_of_the_state_dict_and_survive_the_meta_device():
    with torch.device("meta"):
        rope = RotaryEmbedding(8, 16)
    assert not rope.state_dict()
    assert rope.cos.is_meta

    rope.to_empty(device="cpu").reset_parameters()

    reference = RotaryEmbedding(8, 16)
    assert torch.equal(rope.cos, reference.cos)
    assert torch.equal(rope.sin, reference.sin)


def test_refuses_what_cannot_work():
    with pytest.raises(ConfigError, match="head_dim must be even"):
        RotaryEmbedding(7)
    with pytest.raises(ConfigError, match="base must be finite and positive"):
        RotaryEmbedding(8, base=0)
    with pytest.raises(ConfigError, match="17 positions is longer than max_len=16"):
        RotaryEmbedding(8, 16)(torch.zeros(1, 17, 1, 8))
