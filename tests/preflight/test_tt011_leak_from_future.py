"""Models that see the future."""

import torch
from torch import nn

from trimtab.preflight.tt011_leak_from_future import LeakFromFuture


class Language(nn.Module):
    def __init__(self, *, masked):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 20)
        self.masked = masked

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.layer(self.embedding(tokens), mask if self.masked else None)
        return self.head(x).transpose(1, 2)


def shifted(generator):
    tokens = torch.randint(20, (8, 17), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


class Swap(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_fires_without_a_mask(judge, shown, generator):
    model = Language(masked=False)

    (finding,) = judge(
        LeakFromFuture(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        shifted(generator),
    )

    assert shown(finding) == [
        (
            "error, silent_config_error: TT011 leak-from-future at layer.self_attn: the "
            "outputs of the first 8 positions change with the inputs after them"
        ),
        "positions that see the future yes, normal no",
        (
            "There is no causal mask, or it is off by one or of the wrong sign, so the "
            "model reads the next token from its input."
        ),
        (
            "pass is_causal=True or an upper-triangular mask to the attention, and use "
            "only left padding in convolutions over time"
        ),
    ]


def test_fires_on_a_wide_convolution_said_to_be_causal(judge, shown, generator):
    model = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 1))
    model = nn.Sequential(nn.Unflatten(1, (12, 8)), Swap(), model, Swap())
    x = torch.randn(16, 96, generator=generator)

    (finding,) = judge(
        LeakFromFuture(),
        model[1:],
        torch.optim.Adam(model.parameters()),
        nn.MSELoss(),
        (x.view(16, 12, 8), x.view(16, 12, 8)),
        causal=True,
    )

    assert shown(finding) == [
        (
            "error, silent_config_error: TT011 leak-from-future at 2.0: the outputs of "
            "the first 6 positions change with the inputs after them"
        ),
        "positions that see the future yes, normal no",
        (
            "There is no causal mask, or it is off by one or of the wrong sign, so the "
            "model reads the next token from its input."
        ),
        (
            "pass is_causal=True or an upper-triangular mask to the attention, and use "
            "only left padding in convolutions over time"
        ),
    ]


def test_is_silent_with_a_mask(judge, generator):
    model = Language(masked=True)

    assert (
        judge(
            LeakFromFuture(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            shifted(generator),
        )
        == []
    )


def test_is_silent_on_other_targets(judge, generator):
    model = Language(masked=False)
    tokens = torch.randint(20, (8, 16), generator=generator)

    assert (
        judge(
            LeakFromFuture(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (tokens, tokens),
        )
        == []
    )


def test_is_silent_if_told_that_it_may_look_ahead(judge, generator):
    model = Language(masked=False)

    assert (
        judge(
            LeakFromFuture(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            shifted(generator),
            causal=False,
        )
        == []
    )
