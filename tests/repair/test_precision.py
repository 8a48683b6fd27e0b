import pytest
import torch
from torch import nn

from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order

ORDER = [Order(action="use_float32")]


class Narrow(nn.Module):
    """Casts its own inputs, and answers in float32."""

    def __init__(self, dtype, cast):
        super().__init__()
        self.net = nn.Linear(4, 1).to(dtype)
        self.cast = cast

    def forward(self, x):
        return self.net(self.cast(x)).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_float32_take_inputs_of_fewer_bits(make_setup, dtype):
    setup = make_setup()
    setup.model.to(dtype)
    (edit,) = apply(setup, ORDER)
    name = str(dtype).removeprefix("torch.")
    assert edit.diff == f"type of the weights: {name} -> float32"
    assert setup.model(torch.ones(2, 4, dtype=dtype)).dtype is torch.float32
    assert apply(setup, ORDER) == []


@pytest.mark.parametrize(
    ("dtype", "cast"),
    [
        (torch.float16, lambda x: x.half()),
        (torch.bfloat16, lambda x: x.bfloat16()),
        (torch.float16, lambda x: x.to(torch.float16)),
        (torch.float16, lambda x: x.to(dtype=torch.float16)),
    ],
)
def test_a_cast_in_forward_is_left_out(make_setup, dtype, cast):
    setup = make_setup(model=lambda: Narrow(dtype, cast))
    apply(setup, ORDER)
    x = torch.full((2, 4), 1e5)  # infinite in float16
    torch.testing.assert_close(setup.model(x), setup.model.net(x))
    assert type(setup.model).__name__ == "Narrow"


@pytest.mark.parametrize("loss_fn", [nn.BCELoss(), nn.functional.binary_cross_entropy])
def test_targets_of_fewer_bits_meet_outputs_in_float32(make_setup, loss_fn):
    def model():
        return nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()).half()

    setup = make_setup(model=model, loss_fn=loss_fn)
    apply(setup, ORDER)
    y = torch.ones(2, 1).half()
    loss = setup.loss_fn(setup.model(torch.ones(2, 4).half()), y)
    loss.backward()
    assert loss.dtype is torch.float32
    assert setup.model[0].weight.grad.abs().sum() > 0


def test_weights_in_float64_stay(make_setup):
    setup = make_setup()
    setup.model.double()
    assert apply(setup, ORDER) == []
    assert setup.model[0].weight.dtype is torch.float64
