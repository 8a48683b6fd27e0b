import torch
from torch import nn

from trimtab.audit._snapshot import Difference, differences, others_of, snapshot
from trimtab.engine import TrainingSetup


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.calls, self.generator, self._hidden = 3, torch.Generator(), 7

    def forward(self, x):
        return self.layer(x)


def make(**parts):
    model = Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return TrainingSetup(model, optimizer, nn.MSELoss(), [], **parts)


def train(setup):
    setup.loss_fn(setup.model(torch.randn(4, 2)), torch.zeros(4, 2)).backward()
    setup.optimizer.step()


def test_everything_has_a_name():
    setup = make()
    train(setup)

    parts = snapshot(setup)

    params = ["layer.0.weight", "layer.0.bias", "layer.1.weight", "layer.1.bias"]
    assert list(parts["weights"]) == list(parts["gradients"]) == params
    assert list(parts["optimizer"]) == [f"{p}: momentum_buffer" for p in params]
    assert parts["groups"]["param group 0: momentum"] == 0.9
    assert parts["buffers"]["layer.1.num_batches_tracked"] == 1
    assert set(parts["modes"]) == {"the model", "layer", "layer.0", "layer.1"}
    assert list(parts["others"]) == ["model.calls", "model.generator"]
    assert parts["schedule"] == {}


def test_it_is_a_copy():
    setup = make()
    before = snapshot(setup)
    train(setup)
    setup.optimizer.param_groups[0]["lr"] = 0.2

    after = snapshot(setup)

    changed = {part: [d.name for d in differences(before[part], after[part])] for part in before}
    assert changed["groups"] == ["param group 0: lr"]
    assert "layer.0.weight" in changed["weights"]
    assert len(changed["gradients"]) == 4
    assert changed["modes"] == []
    assert snapshot(setup)["others"].keys() == after["others"].keys()


def test_what_is_missing_differs():
    found = differences({"a": 1, "b": None, "c": 2}, {"a": 1, "b": None, "d": 3})

    assert found == [
        Difference(name="c", before=2, after=None),
        Difference(name="d", before=None, after=3),
    ]
    assert [d.is_missing for d in found] == [True, False]


def test_schedules_and_what_the_loop_body_has_hold_of_belong_to_it():
    scaler, average = torch.amp.GradScaler("cpu"), nn.Linear(1, 1)

    def step(model, optimizer, loss_fn, x, y):
        scaler.scale(average(x))

    setup = make(train_step=step)
    setup.scheduler = torch.optim.lr_scheduler.StepLR(setup.optimizer, 1)
    parts = snapshot(setup, [lambda: average])

    assert parts["schedule"]["last_epoch"] == 0
    assert {id(o) for o in others_of(setup, [lambda: average])} == {id(scaler), id(average)}
    assert {"GradScaler: scale", "Linear: weight"} <= set(parts["others"])
