"""What freezing is for: the loss of a step that is over, computed again."""

# ruff: noqa: B023, PLW0108 # lambdas that see what a loop moves on are what is tested

import functools
import timeit
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from trimtab.errors import StateError
from trimtab.guard import captured, freeze

MODEL = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
SHIFT = 0.0


def mse(x, y):
    return nn.functional.mse_loss(MODEL(x), y) + SHIFT


def batches(count=3):
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(5, 3, generator=g), torch.randn(5, 1, generator=g)) for _ in range(count)]


class Trainer:
    def __init__(self):
        self.model, self.rate, self.calls = MODEL, 1.0, 0

    def loss(self):
        self.calls += 1
        self.out = self.model(self.x)
        return nn.functional.mse_loss(self.out, self.y) * self.rate


def with_lambda(trainer):
    for x, y in batches():
        yield lambda: nn.functional.mse_loss(MODEL(x), y)


def with_dictionary(trainer):
    batch = {}
    for x, y in batches():
        batch["x"], batch["y"] = x, [y]
        yield lambda: nn.functional.mse_loss(MODEL(batch["x"]), batch["y"][0])


def with_function_in_function(trainer):
    def predict():
        return MODEL(x)

    def loss():
        return nn.functional.mse_loss(predict(), y)

    for x, y in batches():  # noqa: B007 # read by the functions
        yield lambda: loss()


def with_recursion(trainer):
    def total(n):
        return mse(x[n : n + 1], y[n : n + 1]) + (total(n - 1) if n else 0)

    for x, y in batches():  # noqa: B007 # read by the function
        yield lambda: total(4)


def with_comprehension(trainer):
    for x, y in batches():
        yield lambda: sum(mse(a, b) for a, b in zip(x.split(2), y.split(2), strict=True))


def with_partial(trainer):
    for x, y in batches():
        yield functools.partial(mse, x, y=y)


def with_defaults(trainer):
    for x, y in batches():
        yield lambda x=x, *, y=y: mse(x, y)


def with_bound_method(trainer):
    for trainer.x, trainer.y in batches():
        yield trainer.loss


def with_object_in_lambda(trainer):
    for trainer.x, trainer.y in batches():
        yield lambda: trainer.loss()


def with_global(trainer):
    global SHIFT
    for SHIFT, (x, y) in enumerate(batches()):  # noqa: B007 # read by mse
        yield lambda: mse(x, y)


WAYS = [
    with_lambda,
    with_dictionary,
    with_function_in_function,
    with_recursion,
    with_comprehension,
    with_partial,
    with_defaults,
    with_bound_method,
    with_object_in_lambda,
    with_global,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
def test_the_loss_of_each_step_comes_out_again(way):
    then, frozen = [], []
    trainer = Trainer()
    for function in way(trainer):
        frozen.append(freeze(function))
        then.append(function().item())
    assert len(set(then)) == 3  # the batches differ, so a mix-up would show
    for _ in range(2):
        assert [f().item() for f in reversed(frozen)] == then[::-1]
    assert trainer.calls in {0, 3}  # a replay leaves no trace in the user's objects


def test_gradients_are_those_of_the_live_model():
    function = freeze(next(iter(with_lambda(None))))
    function().backward()
    first = MODEL[0].weight.grad.clone()
    MODEL.zero_grad()
    with torch.no_grad():
        MODEL[2].weight.mul_(2)
    function().backward()
    torch.testing.assert_close(MODEL[2].bias.grad.isfinite().all(), torch.tensor(True))
    assert not torch.equal(MODEL[0].weight.grad, first)
    MODEL.zero_grad()


def test_a_batch_written_to_in_place_is_said():
    x, y = batches(1)[0]
    function = freeze(lambda: mse(x, y))
    function()
    x.zero_()
    with pytest.raises(StateError, match=r"^x: written to in place since the step, so the step"):
        function()
    assert function.why_not().endswith("have batches copied with freeze(function, copy=True).")


def test_a_copied_batch_may_be_written_to():
    x, y = batches(1)[0]
    function = freeze(lambda: mse(x, y), copy=True)
    loss = function().item()
    x.zero_()
    y.zero_()
    assert function.why_not() is None
    assert function().item() == loss


def test_a_graph_made_outside_is_not_held_on_to():
    x, y = batches(1)[0]
    out = MODEL(x)
    function = freeze(lambda: nn.functional.mse_loss(out, y))
    assert function.why_not() == (
        "The step cannot be run again: out was computed by a forward pass outside of the function, "
        "which cannot be run again from here. Compute it inside of the function, or detach it."
    )
    assert captured(function) == {}


def test_an_iterator_is_said():
    loader = iter(batches())
    function = freeze(lambda: mse(*next(loader)))
    with pytest.raises(StateError, match=r"loader is an iterator, which gives something else"):
        function()
    assert len(list(loader)) == 3


def test_a_carried_state_is_cut_off_and_kept():
    cell = nn.RNNCell(3, 4)
    h = torch.zeros(5, 4)

    def loss():
        nonlocal h
        h = cell(x, h.detach())
        return h.square().mean()

    then, frozen = [], []
    for x, _ in batches():  # noqa: B007 # read by the function
        frozen.append(freeze(loss))
        then.append(loss().item())
    assert [f().item() for f in frozen] == then
    assert [f().item() for f in frozen] == then


def test_what_hooks_leave_for_the_loss():
    """A layer's output in a dictionary, an auxiliary loss on the module: new ones in each step."""

    class Experts(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            self.aux_loss = out.square().mean()
            return out

    model, seen = nn.Sequential(Experts(3, 4), nn.Linear(4, 1)), {"name": "hidden"}
    experts = model[0]
    experts.register_forward_hook(lambda module, args, out: seen.update(out=out, kept=out.detach()))

    def loss():
        out = nn.functional.mse_loss(model(x), y)
        return out + experts.aux_loss + seen["out"].abs().mean() + seen["kept"].mean()

    then, frozen = [], []
    for x, y in batches():  # noqa: B007 # read by the function
        frozen.append(freeze(loss))
        value = loss()
        value.backward()
        then.append(value.item())
    left = seen["out"]
    for _ in range(2):
        for function, value in zip(frozen, then, strict=True):
            again = function()
            again.backward()
            assert again.item() == value
    assert seen["out"] is left


def test_functions_share_what_they_assign():
    x, y = batches(1)[0]
    total = torch.zeros(())

    def add():
        nonlocal total
        total = total + mse(x, y)

    def loss():
        nonlocal total
        total = torch.zeros(())
        add()
        add()
        return total

    function = freeze(loss)
    assert function().item() == function().item() == loss().item() > 0


def test_what_a_call_assigns_is_forgotten():
    x, y = batches(1)[0]
    logits, count = MODEL(x), 0

    def loss():
        nonlocal logits, count
        logits = MODEL(x)
        count += 1
        return nn.functional.mse_loss(logits, y) * count

    function = freeze(loss)
    assert function().item() == function().item() == loss().item()
    assert count == 1


def test_attributes_are_put_back_after_an_error():
    trainer = Trainer()
    trainer.x, trainer.y = batches(1)[0]
    function = freeze(trainer.loss)
    later = trainer.x = torch.zeros(7, 99)
    del trainer.y
    function()
    assert trainer.x is later
    assert not hasattr(trainer, "y")
    trainer.model = None  # shared, not frozen: the call fails
    with pytest.raises(TypeError):
        function()
    assert trainer.x is later


def test_other_callables_are_taken_as_they_are():
    @dataclass
    class Loss:
        def __call__(self):
            return 7

    assert freeze(Loss())() == 7
    assert freeze(freeze(Loss()))() == 7


def test_parameters_and_models_are_shared():
    weight = nn.Parameter(torch.ones(2))
    function = freeze(lambda: weight.sum(), copy=True)
    with torch.no_grad():
        weight.fill_(3)
    assert function().item() == 6


def test_builtins_imports_and_warnings_work_inside():
    def loss():
        import math

        return torch.tensor(sum([len("ab"), math.floor(1.5)]), dtype=torch.float32)

    assert freeze(loss)().item() == 3


@pytest.mark.parametrize("way", [with_lambda, with_global, with_bound_method])
def test_it_costs_less_than_a_tiny_forward_pass(way):
    x, y = batches(1)[0]
    function = next(iter(way(Trainer())))
    freezing = min(timeit.repeat(lambda: freeze(function), number=50, repeat=20))
    forward = min(timeit.repeat(lambda: mse(x, y), number=50, repeat=20))
    assert freezing < 2 * forward
