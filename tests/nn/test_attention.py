import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.nn import Attention, RotaryEmbedding

BATCH, TIME, DIM, HEADS = 2, 7, 16, 4


@pytest.fixture
def x(generator):
    return torch.randn(BATCH, TIME, DIM, generator=generator)


def reference(attention, x, allowed=None, bias=None):
    """Attention as its formula, in float64."""
    x = x.double()
    heads, kv_heads = attention.num_heads, attention.num_kv_heads

    def split(proj, num):
        return (x @ proj.weight.double().T).unflatten(-1, (num, -1)).transpose(1, 2)

    q, k, v = (
        split(attention.q_proj, heads),
        *(
            split(proj, kv_heads).repeat_interleave(heads // kv_heads, 1)
            for proj in (attention.k_proj, attention.v_proj)
        ),
    )
    if attention.q_norm is not None:
        q, k = (a / (a.square().mean(-1, keepdim=True) + 1e-6).sqrt() for a in (q, k))
    logits = q @ k.transpose(-2, -1) / math.sqrt(attention.head_dim)
    if attention.softcap is not None:
        logits = attention.softcap * torch.tanh(logits / attention.softcap)
    if bias is not None:
        logits = logits + bias
    if attention.causal:
        logits = logits.masked_fill(torch.ones(TIME, TIME).triu(1).bool(), -torch.inf)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    y = (logits.softmax(-1).nan_to_num() @ v).transpose(1, 2).flatten(2)
    return (y @ attention.out_proj.weight.double().T).float()


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_kv_heads", [None, 2, 1])
def test_matches_float64_formula(qk_norm, softcap, causal, num_kv_heads, x):
    attention = Attention(
        DIM, HEADS, num_kv_heads=num_kv_heads, causal=causal, qk_norm=qk_norm, softcap=softcap
    )

    torch.testing.assert_close(attention(x), reference(attention, x))


@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_of_every_kind(softcap, causal, x, generator):
    attention = Attention(DIM, HEADS, causal=causal, softcap=softcap)
    padding = torch.zeros(BATCH, TIME, dtype=torch.bool)
    padding[0, 4:] = True
    allowed = torch.rand(1, HEADS, TIME, TIME, generator=generator) > 0.3
    bias = torch.randn(BATCH, 1, TIME, TIME, generator=generator)
    seen = ~padding[:, None, None]

    def check(expected, **masks):
        torch.testing.assert_close(attention(x, **masks), expected)

    check(reference(attention, x, seen), key_padding_mask=padding)
    check(reference(attention, x, allowed), attn_mask=allowed)
    check(reference(attention, x, bias=bias), attn_mask=bias)
    check(reference(attention, x, allowed & seen), attn_mask=allowed, key_padding_mask=padding)
    check(reference(attention, x, seen, bias), attn_mask=bias, key_padding_mask=padding)


@pytest.mark.parametrize("softcap", [None, 50.0])
@pytest.mark.parametrize("additive", [False, True])
def test_a_query_that_sees_nothing_gets_zeros_and_no_nan_gradient(softcap, additive, x):
    attention = Attention(DIM, HEADS, causal=True, softcap=softcap)
    padding = torch.zeros(BATCH, TIME, dtype=torch.bool)
    padding[1, :3] = True  # left padding under a causal mask: nothing is left to see
    bias = torch.zeros(TIME, TIME) if additive else None

    y = attention(x, key_padding_mask=padding, attn_mask=bias)
    y.square().sum().backward()

    assert y[1, :3].count_nonzero() == 0
    assert y[1, 3:].count_nonzero() > 0
    assert all(p.grad.isfinite().all() for p in attention.parameters())


@pytest.mark.parametrize("softcap", [None, 50.0])
@pytest.mark.parametrize("padded", [False, True])
def test_causal_attention_leaks_nothing_from_the_future(softcap, padded, x):
    rope = RotaryEmbedding(DIM // HEADS, TIME)
    attention = Attention(DIM, HEADS, causal=True, softcap=softcap, rope=rope)
    padding = torch.zeros(BATCH, TIME, dtype=torch.bool) if padded else None
    x.requires_grad_()

    for t in range(TIME):
        (grad,) = torch.autograd.grad(attention(x, key_padding_mask=padding)[:, t].sum(), x)
        assert grad[:, t + 1 :].count_nonzero() == 0
        assert (grad[:, : t + 1].abs().amax((0, 2)) > 0).all()


def test_rotary_positions_make_order_matter(x):
    swapped = x[:, [1, 0, *range(2, TIME)]]
    plain = Attention(DIM, HEADS)
    turned = Attention(DIM, HEADS, rope=RotaryEmbedding(DIM // HEADS, TIME))

    torch.testing.assert_close(plain(swapped)[:, 2:], plain(x)[:, 2:])
    assert (turned(swapped) - turned(x))[:, 2:].abs().max() > 1e-3


def test_qk_norm_bounds_the_logits(x):
    attention = Attention(DIM, HEADS)
    q = attention.q_norm(1e6 * attention.q_proj(x).unflatten(-1, (HEADS, -1)))
    k = attention.k_norm(1e6 * attention.k_proj(x).unflatten(-1, (HEADS, -1)))

    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(DIM // HEADS)

    assert logits.abs().max() <= math.sqrt(DIM // HEADS) + 1e-4


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_dropout_acts_while_training_alone(softcap, x):
    attention = Attention(DIM, HEADS, softcap=softcap, dropout=0.5)
    silent = Attention(DIM, HEADS, softcap=softcap, dropout=1.0)

    assert not torch.equal(attention(x), attention(x))
    assert silent(x).count_nonzero() == 0
    torch.testing.assert_close(attention.eval()(x), reference(attention, x))


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_runs_under_autocast_and_in_bfloat16(softcap, x):
    rope = RotaryEmbedding(DIM // HEADS, TIME)
    attention = Attention(DIM, HEADS, causal=True, softcap=softcap, rope=rope)
    expected = attention(x)

    with torch.autocast("cpu", torch.bfloat16):
        y = attention(x)
    cast = attention.bfloat16()(x.bfloat16())

    for got in (y, cast):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), expected, atol=0.03, rtol=0.05)


def test_matches_torch_multihead_attention(x):
    attention = Attention(DIM, HEADS, qk_norm=False, bias=True)
    peer = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        peer.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        peer.out_proj.load_state_dict(attention.out_proj.state_dict())
    padding = torch.zeros(BATCH, TIME, dtype=torch.bool)
    padding[1, 5:] = True

    expected, _ = peer(x, x, x, key_padding_mask=padding)

    torch.testing.assert_close(attention(x, key_padding_mask=padding), expected)


def test_matches_torch_on_a_long_sequence(generator):
    attention = Attention(8, 1, causal=True, qk_norm=False)
    x = torch.randn(1, 200, 8, generator=generator)
    q, k, v = (p(x)[:, None] for p in (attention.q_proj, attention.k_proj, attention.v_proj))

    expected = functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]

    torch.testing.assert_close(attention(x), attention.out_proj(expected))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((10, 4), {}, r"dim=10 and num_heads=4\. The next dim that fits is 12"),
        ((16, 4), {"num_kv_heads": 3}, "num_heads must be a multiple of num_kv_heads"),
        ((16, 0), {}, "num_heads must be an integer"),
        ((16, 4), {"softcap": -1.0}, "softcap must be finite and positive"),
        ((16, 4), {"dropout": 1.5}, "dropout is a probability"),
        ((16, 4), {"rope": RotaryEmbedding(8)}, "rope was built for head_dim=8"),
    ],
)
def test_refuses_bad_settings(arguments, settings, message):
    with pytest.raises(ConfigError, match=message):
        Attention(*arguments, **settings)
