import pytest
import torch
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.nn import GEGLU, GLU, FeedForward, SwiGLU, gated_hidden

GATES = {GLU: torch.sigmoid, SwiGLU: functional.silu, GEGLU: functional.gelu}


@pytest.mark.parametrize("kind", GATES)
def test_gated_units_match_the_formula_in_float64(kind, generator):
    block = kind(12, 20)
    x = torch.randn(3, 5, 12, generator=generator)
    gate, up, down = (p.weight.double() for p in (block.gate_proj, block.up_proj, block.down_proj))

    expected = (GATES[kind](x.double() @ gate.T) * (x.double() @ up.T)) @ down.T

    torch.testing.assert_close(block(x), expected.float())


def test_plain_block_matches_the_formula(generator):
    block = FeedForward(12, activation="relu")
    x = torch.randn(3, 12, generator=generator)

    inner = (x @ block.up_proj.weight.T + block.up_proj.bias).clamp(min=0)

    assert inner.shape == (3, 48)
    torch.testing.assert_close(block(x), inner @ block.down_proj.weight.T + block.down_proj.bias)


@pytest.mark.parametrize("dim", [64, 256, 768])
def test_gated_and_plain_blocks_have_about_as_many_weights(dim):
    def count(block):
        return sum(p.numel() for p in block.parameters())

    assert count(SwiGLU(dim)) == pytest.approx(count(FeedForward(dim, bias=False)), rel=0.05)


@pytest.mark.parametrize(
    ("dim", "multiple_of", "hidden"), [(3, 8, 8), (4, 1, 11), (768, 8, 2048), (100, 64, 320)]
)
def test_hidden_width_is_rounded_up(dim, multiple_of, hidden):
    assert gated_hidden(dim, multiple_of=multiple_of) == hidden


def test_bias_is_an_option():
    assert SwiGLU(4).up_proj.bias is None
    assert SwiGLU(4, bias=True).up_proj.bias is not None
    assert FeedForward(4, bias=False).down_proj.bias is None


def test_refuses_bad_settings():
    with pytest.raises(ConfigError, match=r"Did you mean 'gelu'"):
        FeedForward(4, activation="geluu")
    with pytest.raises(ConfigError, match="hidden must be"):
        SwiGLU(4, 0)
    with pytest.raises(ConfigError, match="dim must be"):
        FeedForward(0)
