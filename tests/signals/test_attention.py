import math

import pytest
import torch

from trimtab.signals._attention import NUM_QUERIES, attention_gauges


def reference(q, k, rows, causal, softcap):
    """Largest logit and mean entropy of the first sequence, query by query in float64."""
    q, k = q[0].double(), k[0].double()
    largest, entropies = -math.inf, []
    for head in range(q.shape[1]):
        kv_head = head * k.shape[1] // q.shape[1]
        for row in rows:
            seen = k[: row + 1, kv_head] if causal else k[:, kv_head]
            logits = seen @ q[row, head] / math.sqrt(q.shape[-1])
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            weights = logits.softmax(dim=0)
            largest = max(largest, logits.max().item())
            entropies.append(torch.special.entr(weights).sum().item())
    return largest, sum(entropies) / len(entropies)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("time", [1, 5, NUM_QUERIES])
def test_few_queries_are_exact(causal, softcap, kv_heads, time, generator):
    q = torch.randn(2, time, 4, 6, generator=generator) * 3
    k = torch.randn(2, time, kv_heads, 6, generator=generator) * 3
    gauges = attention_gauges(q, k, causal=causal, softcap=softcap)
    expected = reference(q, k, range(time), causal, softcap)
    assert gauges.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_many_queries_are_sampled_up_to_the_last(generator):
    q, k = (torch.randn(1, 100, 2, 8, generator=generator) for _ in "qk")
    gauges = attention_gauges(q, k, causal=True, softcap=None)
    rows = range(99, -1, -12)[:NUM_QUERIES]
    assert gauges.tolist() == pytest.approx(reference(q, k, rows, True, None), rel=1e-5)
    _, every = reference(q, k, range(100), True, None)
    assert gauges[1].item() == pytest.approx(every, rel=0.15)


def test_uniform_attention_has_the_entropy_of_its_length():
    q, k = torch.zeros(1, 16, 2, 4), torch.randn(1, 16, 2, 4)
    gauges = attention_gauges(q, k, causal=False, softcap=None)
    assert gauges.tolist() == pytest.approx([0, math.log(16)], abs=1e-6)


def test_half_precision_does_not_overflow():
    q = torch.full((1, 4, 1, 16), 200.0, dtype=torch.float16)
    gauges = attention_gauges(q, q, causal=True, softcap=None)
    assert gauges.tolist() == pytest.approx([200 * 200 * 4, math.log(24) / 4])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_makes_it_no_coarser(dtype, generator):
    q, k = (torch.randn(2, 8, 4, 6, generator=generator).to(dtype) for _ in range(2))
    alone = attention_gauges(q, k, causal=True, softcap=None)
    with torch.autocast("cpu", dtype):
        inside = attention_gauges(q, k, causal=True, softcap=None)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, alone)
