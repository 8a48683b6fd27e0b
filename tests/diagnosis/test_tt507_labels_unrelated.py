import pytest
import torch
from torch import nn

from trimtab.diagnosis import LabelsUnrelated, diagnose
from trimtab.findings import Evidence, Selection

ALONE = Selection(select=("TT507",))


@pytest.fixture
def classifier(make_model, generator):
    model = make_model(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    xs = torch.randn(100, 16, 8, generator=generator)
    return model, optimizer, nn.CrossEntropyLoss(), xs


@pytest.mark.slow
def test_fires(classifier, generator):
    model, optimizer, loss_fn, xs = classifier
    pairs = [(x, torch.randint(4, (16,), generator=generator)) for x in xs]

    found = diagnose(model, optimizer, loss_fn, pairs, steps=100, selection=ALONE)

    trial = found.trials[-1]
    assert trial.kind == "batch"
    assert trial.learned > 0.5
    assert found.findings == [
        LabelsUnrelated().finding(
            what=f"one batch alone was learned ({trial.learned:.0%} off its loss), all batches "
            f"together were not ({max(0, found.outcome.learned):.0%})",
            site="batches",
            evidence=(
                Evidence(
                    name="loss against shuffled targets over loss",
                    value=found.outcome.knows + 1,
                    normal=found.findings[0].evidence[0].normal,
                ),
            ),
            cause="the targets seem to have little to do with the inputs: shuffled apart, shifted, "
            "or random; or the task needs many more steps",
            fix="compare some examples with their labels, and shuffle inputs and labels together",
        )
    ]


def test_silent_on_labels_that_can_be_learned(classifier):
    model, optimizer, loss_fn, xs = classifier
    pairs = [(x, x[:, :4].argmax(1)) for x in xs]

    assert diagnose(model, optimizer, loss_fn, pairs, steps=60, selection=ALONE).healthy
