import pytest
import torch
from torch import nn

from trimtab.engine import TrainingSetup
from trimtab.errors import ConfigError


def parts():
    model = nn.Linear(2, 1)
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss_fn": nn.MSELoss(),
        "batches": [(torch.ones(3, 2), torch.ones(3, 1))],
    }


def test_holds_what_a_run_is_made_of():
    given = parts()

    setup = TrainingSetup(**given)

    assert (setup.model, setup.optimizer) == (given["model"], given["optimizer"])
    assert (setup.scheduler, setup.train_step) == (None, None)
    x, y = next(iter(setup.batches))
    assert setup.loss_fn(setup.model(x), y).ndim == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", nn.functional.relu, "must be a torch Module, got function"),
        ("optimizer", "adam", "must be a torch Optimizer, got str"),
        ("loss_fn", 3, "loss_fn of a TrainingSetup must be callable, got int"),
        ("batches", None, r"must be an iterable of \(x, y\) pairs, got NoneType"),
    ],
)
def test_a_part_of_another_kind_is_refused(name, value, message):
    with pytest.raises(ConfigError, match=message):
        TrainingSetup(**parts() | {name: value})
