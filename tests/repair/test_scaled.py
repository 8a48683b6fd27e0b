import torch
from torch import nn

from trimtab.repair import Scaled
from trimtab.repair._scaled import first_tensor


def test_scales_the_first_input_and_the_output():
    model = nn.Linear(2, 1)
    mean, spread = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
    scaled = Scaled(model, inputs=(mean, spread), outputs=(torch.tensor(5.0), torch.tensor(3.0)))
    x = torch.tensor([[1.0, 6.0]])
    torch.testing.assert_close(scaled(x), 3 * model(torch.tensor([[0.0, 1.0]])) + 5)


class Two(nn.Module):
    kind = "two"

    def forward(self, a, b):
        return a + b


def test_other_arguments_pass_and_names_count():
    half = (torch.tensor(0.0), torch.tensor(2.0))
    scaled = Scaled(Two(), inputs=half)
    a, b = torch.tensor(4.0), torch.tensor(4.0)
    assert scaled(a, b).item() == 6
    assert scaled(a=a, b=b).item() == 6
    assert scaled(torch.tensor(4), b).item() == 8  # tokens are left alone


def test_keeps_mode_attributes_and_weights():
    scaled = Scaled(Two().eval(), inputs=(torch.zeros(()), torch.ones(())))
    assert not scaled.training
    assert scaled.kind == "two"
    linear = Scaled(nn.Linear(2, 1), outputs=(torch.tensor(1.0), torch.tensor(2.0)))
    other = Scaled(nn.Linear(2, 1))
    other.load_state_dict(linear.state_dict())
    assert other.output_spread.item() == 2


def test_first_tensor():
    a, b = torch.ones(1), torch.zeros(1)
    assert first_tensor({"x": (a, b)}) is a
    assert first_tensor([None, b]) is b
    assert first_tensor("text") is None


def test_can_be_put_around_itself():
    inner = Scaled(nn.Linear(1, 1), outputs=(torch.tensor(1.0), torch.tensor(2.0)))
    outer = Scaled(inner, inputs=(torch.tensor(3.0), torch.tensor(4.0)))
    x = torch.tensor([[7.0]])
    torch.testing.assert_close(outer(x), inner(torch.tensor([[1.0]])))
