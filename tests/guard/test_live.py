import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError, StateError
from trimtab.guard import LiveState

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Everything that a snapshot has to hold."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(6, 4)
        self.tied = nn.Linear(4, 6, bias=False)
        self.tied.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.steps = 0

    def forward(self, x):
        self.scale.mul_(0.99)
        self.steps += 1
        return self.head(self.drop(self.norm(self.embed(x))) + self.tied(x)) * self.scale

    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]


OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "fused Adam": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "tensor lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-2)),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-2),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=1e-2, max_iter=3, history_size=3),
}


class Run:
    """Training with all that has a state: what it draws too, from three generators."""

    def __init__(self, name="AdamW"):
        self.model = Net()
        self.optimizer = OPTIMIZERS[name](list(self.model.parameters()))
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 30)
        self.live = LiveState(self.model, [self.optimizer], {"schedule": self.schedule})

    def step(self):
        noise = torch.from_numpy(np.random.normal(size=X.shape)).float()  # noqa: NPY002 # users'
        x = X * (1 + 0.1 * noise) + random.random()

        def loss():
            self.optimizer.zero_grad()
            loss = (self.model(x) - X).square().mean()
            loss.backward()
            return loss

        value = self.optimizer.step(loss).item()
        self.schedule.step()
        return value

    def train(self, steps):
        return [self.step() for _ in range(steps)]


@pytest.fixture(autouse=True)
def _own_random_state():
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 # put back
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002 # as above


def keep(live):
    reading = live.read()
    return reading, [t.clone() for t in reading.tensors]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 10])
def test_training_goes_on_bit_for_bit(name, before):
    run = Run(name)
    run.train(before)
    reading, stored = keep(run.live)
    first = run.train(10)
    assert len(set(first)) == 10
    for _ in range(2):
        run.live.write(reading, stored)
        assert run.train(10) == first


def test_tensors_keep_their_places():
    run = Run()
    run.train(2)
    reading, stored = keep(run.live)
    state = run.optimizer.state[run.model.head.weight]
    held = [run.model.head.weight, run.model.scale, state["exp_avg"], state["step"]]
    addresses = [t.data_ptr() for t in held]
    run.train(3)
    run.live.write(reading, stored)
    state = run.optimizer.state[run.model.head.weight]
    again = [run.model.head.weight, run.model.scale, state["exp_avg"], state["step"]]
    assert all(a is b for a, b in zip(held, again, strict=True))
    assert [t.data_ptr() for t in again] == addresses
    assert state["step"].item() == 2


def test_an_optimizer_without_state_gets_none_back():
    run = Run()
    reading, stored = keep(run.live)
    run.train(3)
    run.live.write(reading, stored)
    assert len(run.optimizer.state) == 0


def test_a_cleared_optimizer_gets_its_state_back():
    run = Run()
    run.train(3)
    reading, stored = keep(run.live)
    moments = run.optimizer.state[run.model.head.weight]["exp_avg"].clone()
    run.optimizer.state.clear()
    run.live.write(reading, stored)
    found = run.optimizer.state[run.model.head.weight]
    assert torch.equal(found["exp_avg"], moments)
    assert found["exp_avg"].data_ptr() not in {t.data_ptr() for t in stored}


def test_settings_come_back():
    run = Run()
    reading, stored = keep(run.live)
    group = run.optimizer.param_groups[0]
    group["lr"], group["betas"], group["note"] = 9.0, (0.0, 0.0), "added"
    run.live.write(reading, stored)
    assert (group["lr"], group["betas"], "note" in group) == (1e-2, (0.9, 0.999), False)


def test_gradients_are_left_alone():
    run = Run()
    reading, stored = keep(run.live)
    run.model(X).sum().backward()
    grad = run.model.head.bias.grad
    run.live.write(reading, stored)
    assert run.model.head.bias.grad is grad


def test_names_are_those_of_the_state_dict():
    run = Run()
    reading = run.live.read()
    names = set(run.model.state_dict()) - {"_extra_state"}
    assert set(reading.model) - set(reading.transient) == names
    assert reading.transient == ["scale"]
    assert reading.model["tied.weight"] == reading.model["embed.weight"]


def test_bytes_count_tied_tensors_once():
    layer, tied = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    tied.weight = layer.weight
    model = nn.Sequential(layer, tied)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    live = LiveState(model, [optimizer])
    assert live.nbytes == 64
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert live.nbytes == 128


def test_parameters_outside_of_the_model_are_kept():
    model, temperature = nn.Linear(2, 2), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    live = LiveState(model, [optimizer])
    reading, stored = keep(live)
    with torch.no_grad():
        temperature.fill_(5)
    live.write(reading, stored)
    assert temperature.item() == 1
    assert list(reading.others) == ["optimizers.0.2"]


def test_groups_added_since_then_keep_their_settings():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.Adam(model[0].parameters(), lr=0.1)
    live = LiveState(model, [optimizer])
    reading, stored = keep(live)
    optimizer.add_param_group({"params": list(model[1].parameters()), "lr": 0.5})
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    live.write(reading, stored)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.5]
    assert len(optimizer.state) == 0


def test_several_optimizers_and_parts_that_keep_what_they_are_given():
    class Part:
        def __init__(self):
            self.memory = {"seen": [torch.zeros(2)], "name": "a"}

        def state_dict(self):
            return self.memory

        def load_state_dict(self, state):
            self.memory = state

    model, part = nn.Linear(2, 2), Part()
    optimizers = [torch.optim.Adam([p], lr=0.1) for p in model.parameters()]
    live = LiveState(model, optimizers, {"part": part})
    reading, stored = keep(live)
    for _ in range(2):
        part.memory["seen"][0].add_(1)
        part.memory["seen"].append(7)
        live.write(reading, stored)
        assert [t.tolist() for t in part.memory["seen"]] == [[0, 0]]


def test_a_part_without_state_is_refused():
    with pytest.raises(ConfigError, match=r"part 'clock', a object, has no state_dict\(\)"):
        LiveState(nn.Linear(1, 1), [], {"clock": object()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "head", nn.Linear(6, 5)), r"'head.weight' was \(4, 6\) in torch.fl"),
        (lambda m: m.head.half(), r"'head.weight' was .* is \(4, 6\) in torch.float16 now"),
        (lambda m: delattr(m, "head"), r"had a tensor 'head.weight' .* and has none now"),
    ],
)
def test_a_changed_model_is_refused_before_anything_is_changed(change, message):
    run = Run()
    reading, stored = keep(run.live)
    run.train(2)
    change(run.model)
    after = copy.deepcopy(run.model.embed.state_dict())
    with pytest.raises(StateError, match=message):
        run.live.write(reading, stored)
    assert torch.equal(run.model.embed.weight, after["weight"])


def test_lazy_parameters_are_passed_over_until_they_are_there():
    model = nn.Sequential(nn.LazyLinear(3))
    live = LiveState(model, [])
    assert live.read().model == {}
    model(torch.ones(1, 2))
    assert list(live.read().model) == ["0.weight", "0.bias"]
