import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.nn._sampling import sample_tokens


class Successor(nn.Module):
    """Knows one rule: after token n comes n + 1, and next likeliest n + 2 (modulo 10)."""

    def forward(self, tokens):
        assert tokens.shape[1] <= 4
        one, two = (functional.one_hot((tokens + step) % 10, 10) for step in (1, 2))
        return 3.0 * one + 2.0 * two


START = torch.tensor([[3], [8]])


def test_temperature_zero_takes_the_likeliest_past_the_model_length():
    out = sample_tokens(Successor(), START, 6, max_len=4, temperature=0)

    assert out.tolist() == [[3, 4, 5, 6, 7, 8, 9], [8, 9, 0, 1, 2, 3, 4]]


def test_top_k_samples_among_the_likeliest(generator):
    start = torch.zeros(2000, 1, dtype=torch.int64)

    out = sample_tokens(Successor(), start, 1, max_len=4, top_k=2, generator=generator)

    share = (out[:, 1] == 1).float().mean().item()
    assert set(out[:, 1].tolist()) == {1, 2}
    assert share == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.05)


def test_temperature_flattens(generator):
    start = torch.zeros(2000, 1, dtype=torch.int64)

    out = sample_tokens(Successor(), start, 1, max_len=4, temperature=1e6, generator=generator)

    assert out[:, 1].bincount(minlength=10).min() > 120


def test_the_generator_decides():
    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample_tokens(Successor(), START, 20, max_len=4, generator=generator)

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


def test_each_module_gets_its_mode_back():
    model = nn.Sequential(Successor(), nn.Dropout(0.9), nn.Dropout(0.9).eval())

    out = sample_tokens(model, START, 2, max_len=4, temperature=0)

    assert out.tolist() == [[3, 4, 5], [8, 9, 0]]
    assert [m.training for m in model.modules()] == [True, True, True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_new": 0}, "num_new must be"),
        ({"top_k": 0}, "top_k must be"),
        ({"temperature": -1.0}, "temperature must be finite"),
        ({"tokens": torch.zeros(0, dtype=torch.int64)}, r"shape \(batch, time\)"),
        ({"tokens": torch.zeros(1, 0, dtype=torch.int64)}, "at least one token"),
    ],
)
def test_refuses_bad_settings(settings, message):
    arguments = {"tokens": START, "num_new": 1, "max_len": 4} | settings

    with pytest.raises(ConfigError, match=message):
        sample_tokens(Successor(), **arguments)
