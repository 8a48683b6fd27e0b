import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from trimtab.checkpoint import seeded
from trimtab.diagnosis._state import State


class Counting(nn.Module):
    """Keeps state in every way that people keep it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(4))
        self.calls, self.cache, self.seen = 0, torch.zeros(4), []
        self.noise = torch.Generator().manual_seed(3)

    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        self.cache += 1
        self.late = x
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)  # another tensor
        noise = torch.randn(x.shape, generator=self.noise)
        return self.norm(self.layer(x)) + self.mean + 0.01 * noise


OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.1, amsgrad=True),
    "fused AdamW": lambda params: torch.optim.AdamW(params, lr=0.1, fused=True),
    "capturable AdamW": lambda params: torch.optim.AdamW(params, lr=torch.tensor(0.1)),
    "LBFGS": lambda params: torch.optim.LBFGS(params, lr=0.1, max_iter=3),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.1, centered=True),
}

SCHEDULES = {
    "StepLR": lambda o: schedules.StepLR(o, 2),
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda n: 0.9**n),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 1.0, total_steps=20),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o), schedules.CosineAnnealingLR(o, 10)], [2]
    ),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o, total_iters=3), schedules.ExponentialLR(o, 0.9)]
    ),
}


def snapshot(value, params):
    """Return everything in nested state as what can be compared for being equal bit for bit."""
    if isinstance(value, torch.Tensor):
        names = {id(p): i for i, p in enumerate(params)}
        return names.get(
            id(value), (str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes())
        )
    if isinstance(value, dict):
        return {snapshot(k, params): snapshot(v, params) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [snapshot(v, params) for v in value]
    return value if isinstance(value, int | float | str | bool | None) else repr(type(value))


def everything(model, optimizer, scheduler):
    params = list(model.parameters())
    return {
        "model": {k: v.numpy().tobytes() for k, v in model.state_dict().items()},
        "buffers": {n: id(b) for n, b in model.named_buffers()},
        "params": {n: id(p) for n, p in model.named_parameters()},
        "grads": [
            None if p.grad is None else (id(p.grad), p.grad.numpy().tobytes()) for p in params
        ],
        "modes": [m.training for m in model.modules()],
        "trainable": [p.requires_grad for p in params],
        "own": snapshot(
            {k: v for k, v in vars(model).items() if not k.startswith("_") and k != "noise"}, params
        ),
        "noise": model.noise.get_state().tolist(),
        "state": snapshot(dict(optimizer.state), params),
        "groups": snapshot(optimizer.param_groups, params),
        "attributes": sorted(vars(optimizer)),
        "schedule": None if scheduler is None else snapshot(scheduler.state_dict(), params),
        "random": [
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            np.random.get_state()[2],  # noqa: NPY002
        ],
    }


def train(model, optimizer, scheduler, x, steps=3):
    for _ in range(steps):

        def closure():
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        if isinstance(scheduler, schedules.ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()


@pytest.fixture
def setting(make_model, generator):
    def make(optimizer="Adam", schedule="StepLR"):
        model = make_model(Counting())
        made = OPTIMIZERS[optimizer](model.parameters())
        scheduler = None if schedule is None else SCHEDULES[schedule](made)
        x = torch.randn(16, 4, generator=generator)
        train(model, made, scheduler, x, steps=2)  # so that there is something to lose
        return model, made, scheduler, x

    return make


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [*((name, "StepLR") for name in OPTIMIZERS), *(("SGD", name) for name in SCHEDULES)],
)
def test_restores_bit_for_bit_again_and_again(setting, make_model, optimizer, schedule, fresh):
    model, made, scheduler, x = setting(optimizer, schedule)
    if fresh:  # nothing trained yet, no gradients
        model = make_model(Counting())
        made = OPTIMIZERS[optimizer](model.parameters())
        scheduler = SCHEDULES[schedule](made)
    before = everything(model, made, scheduler)
    state = State(model, made, scheduler)

    for _ in range(2):
        model.eval()
        model.layer.weight.requires_grad_(False)
        train(model, made, scheduler, x, steps=3)
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        assert everything(model, made, scheduler) != before
        state.restore()
        assert everything(model, made, scheduler) == before


def test_continues_as_if_nothing_had_been(setting):
    model, optimizer, scheduler, x = setting()
    state = State(model, optimizer, scheduler)
    train(model, optimizer, scheduler, x)
    straight = everything(model, optimizer, scheduler)

    state.restore()
    train(model, optimizer, scheduler, x)

    again = everything(model, optimizer, scheduler)
    for part in ("model", "state", "groups", "schedule", "noise"):
        assert again[part] == straight[part], part


def test_puts_back_gradients_that_were_added_to_in_place(setting):
    model, optimizer, scheduler, x = setting()
    before = everything(model, optimizer, scheduler)["grads"]
    state = State(model, optimizer, scheduler)

    model(x).sum().backward()

    state.restore()
    assert everything(model, optimizer, scheduler)["grads"] == before


def test_puts_back_parts_that_were_replaced(setting):
    model, optimizer, scheduler, _ = setting()
    before = everything(model, optimizer, scheduler)
    state = State(model, optimizer, scheduler)

    model.layer.weight = nn.Parameter(torch.zeros(4, 4))
    model.register_buffer("another", torch.zeros(1))
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    optimizer.param_groups[0]["new_key"] = 1
    optimizer.grad_scale = torch.ones(1)

    state.restore()
    assert everything(model, optimizer, scheduler) == before


def test_puts_back_a_model_that_was_converted(setting):
    model, optimizer, scheduler, _ = setting()
    before = everything(model, optimizer, scheduler)["model"]
    state = State(model, optimizer, scheduler)

    model.to(torch.bfloat16)

    state.restore()
    assert model.layer.weight.dtype is torch.float32
    assert everything(model, optimizer, scheduler)["model"] == before


def test_puts_back_a_loss_with_parameters_and_buffers(setting):
    model, optimizer, scheduler, x = setting()
    loss_fn = nn.BatchNorm1d(4)
    state = State(model, optimizer, scheduler, loss_fn)

    loss_fn(x)
    loss_fn.eval()

    state.restore()
    assert int(loss_fn.num_batches_tracked) == 0
    assert loss_fn.training


def test_parameters_of_the_optimizer_alone_are_kept_too(make_model):
    model, stale = make_model(), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([stale], lr=0.1)
    state = State(model, optimizer)

    stale.grad = torch.ones(3)
    optimizer.step()

    state.restore()
    assert stale.tolist() == [1.0, 1.0, 1.0]
    assert stale.grad is None


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_puts_back_what_else_a_loop_uses(setting, make_model):
    model, optimizer, _, x = setting(schedule=None)
    teacher = make_model(nn.Linear(4, 4))
    theirs = torch.optim.Adam(teacher.parameters(), lr=0.1)
    schedule = schedules.ExponentialLR(optimizer, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    before = snapshot([dict(teacher.state_dict()), theirs.state_dict(), schedule.state_dict()], [])
    state = State(model, optimizer, None, None, [teacher, theirs, schedule, scaler])

    for _ in range(2):
        scaler.scale(teacher(x).sum() * float("inf")).backward()
        scaler.unscale_(theirs)  # and no step: it stays half-way
        theirs.step()
        schedule.step()
        scaler.update(16.0)
        scaler.scale(teacher(x).sum()).backward()
        scaler.unscale_(theirs)
        assert scaler.get_scale() == 16.0
        state.restore()
        after = [dict(teacher.state_dict()), theirs.state_dict(), schedule.state_dict()]
        assert snapshot(after, []) == before
        assert scaler.get_scale() == 64.0
        scaler.scale(teacher(x).sum()).backward()
        scaler.unscale_(theirs)
        state.restore()


def test_leaves_alone_what_refuses_to_be_kept(setting):
    class Stubborn:
        def state_dict(self):
            raise RuntimeError

        def load_state_dict(self, state):
            raise RuntimeError

    class Proud(Stubborn):
        def state_dict(self):
            return {}

    model, optimizer, scheduler, _ = setting()
    before = everything(model, optimizer, scheduler)

    State(model, optimizer, scheduler, None, [Stubborn(), Proud()]).restore()

    assert everything(model, optimizer, scheduler) == before


def draws():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()  # noqa: NPY002


def test_seeded_is_the_same_each_time_and_leaves_no_trace():
    with torch.random.fork_rng():
        before = draws_to_come()
        with seeded(7):
            one = draws()
        with seeded(7):
            assert draws() == one
        with pytest.raises(KeyError):
            fail_after_drawing()
        with seeded(8):
            assert draws() != one
        assert draws_to_come() == before


def fail_after_drawing():
    with seeded(7):
        draws()
        raise KeyError


def draws_to_come():
    """Return what is drawn next, and put it back."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    drawn = draws()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
    return drawn
