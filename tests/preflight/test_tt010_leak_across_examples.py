"""Examples that see each other."""

import pytest
import torch
from torch import nn

from trimtab.preflight.tt010_leak_across_examples import LeakAcrossExamples


class Mixing(nn.Module):
    """Normalises over the batch by hand."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(x - x.mean(0))


class Recurrent(nn.Module):
    def __init__(self, *, batch_first):
        super().__init__()
        self.rnn = nn.LSTM(4, 8, batch_first=batch_first)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class TimeFirst(Recurrent):
    def forward(self, x):
        return self.head(self.rnn(x)[0][-1])


class Pairs(nn.Module):
    """A contrastive model: one output for each pair of examples."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 4)

    def forward(self, x):
        z = self.embed(x)
        return z @ z.T


def test_fires_on_a_mean_over_the_batch(judge, shown, classes):
    model = Mixing()

    (finding,) = judge(
        LeakAcrossExamples(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT010 leak-across-examples at head: the "
            "outputs of one half of the batch change when the other half does"
        ),
        "examples that leak yes, normal no",
        (
            "Examples see each other: a view or reshape mixes the batch with features, an"
            " operation runs over dim 0, or a recurrent or attention layer takes the "
            "batch for time (batch_first is False)."
        ),
        (
            "keep the batch dimension apart: batch_first=True, dim=-1 in softmax and "
            "means, x.view(x.size(0), -1)"
        ),
    ]


def test_fires_on_a_recurrent_layer_that_takes_the_batch_for_time(judge, shown):
    model = Recurrent(batch_first=False)
    x = torch.randn(32, 10, 4)

    (finding,) = judge(
        LeakAcrossExamples(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x, x[:, -1, :3].argmax(1)),
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT010 leak-across-examples at rnn: the outputs"
            " of one half of the batch change when the other half does"
        ),
        "examples that leak yes, normal no",
        (
            "Examples see each other: a view or reshape mixes the batch with features, an"
            " operation runs over dim 0, or a recurrent or attention layer takes the "
            "batch for time (batch_first is False)."
        ),
        (
            "keep the batch dimension apart: batch_first=True, dim=-1 in softmax and "
            "means, x.view(x.size(0), -1)"
        ),
    ]


def test_is_silent_on_a_recurrent_layer_told_so(judge):
    model = Recurrent(batch_first=True)
    x = torch.randn(32, 10, 4)

    assert (
        judge(
            LeakAcrossExamples(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x, x[:, -1, :3].argmax(1)),
        )
        == []
    )


def test_is_silent_on_time_first(judge):
    model = TimeFirst(batch_first=False)
    x = torch.randn(10, 32, 4)

    assert (
        judge(
            LeakAcrossExamples(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x, x[-1, :, :3].argmax(1)),
        )
        == []
    )


def test_is_silent_on_batchnorm(judge, classes):
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

    assert (
        judge(
            LeakAcrossExamples(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_outputs_for_pairs(judge, classes):
    model, (x, _y) = Pairs(), classes

    assert (
        judge(
            LeakAcrossExamples(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x, torch.arange(32)),
        )
        == []
    )


class Graph(nn.Module):
    """A graph convolution over the edges that it holds."""

    def __init__(self, nodes):
        super().__init__()
        edges = torch.ones(nodes, nodes) / nodes
        self.register_buffer("edges", edges)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.edges[: len(x), : len(x)] @ self.head(x)


@pytest.mark.parametrize(("nodes", "codes"), [(32, []), (33, ["TT010"])])
def test_is_silent_on_the_nodes_of_a_graph_that_the_model_holds(judge, classes, nodes, codes):
    model = Graph(nodes)
    optimizer = torch.optim.Adam(model.parameters())

    found = judge(LeakAcrossExamples(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert [f.code for f in found] == codes
