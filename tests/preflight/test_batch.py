"""Taking batches apart."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.preflight._batch import (
    as_batch,
    call,
    find_tensors,
    loss_of,
    main_output,
    map_tensors,
    rms,
)


def test_a_pair_is_inputs_and_target():
    x, y = torch.randn(4, 2), torch.arange(4)

    batch = as_batch([x, y], nn.CrossEntropyLoss())

    assert batch.inputs is x
    assert batch.target is y
    assert batch.size == 4


def test_a_list_of_inputs_becomes_arguments():
    x, y = torch.randn(4, 2), torch.arange(4)

    batch = as_batch(([x, x], y), nn.CrossEntropyLoss())

    assert isinstance(batch.inputs, tuple)


def test_without_a_loss_function_all_is_input():
    data = {"x": torch.randn(4, 2), "labels": torch.arange(4)}

    batch = as_batch(data, None)

    assert batch.inputs is data
    assert batch.target is None


def test_a_mapping_with_a_loss_function_is_both():
    data = {"x": torch.randn(4, 2), "labels": torch.arange(4)}

    batch = as_batch(data, nn.CrossEntropyLoss())

    assert batch.inputs is batch.target is data


def test_one_tensor_is_no_pair():
    with pytest.raises(ConfigError, match=r"must be a pair \(inputs, target\), got a Tensor"):
        as_batch(torch.randn(4, 2), nn.CrossEntropyLoss())


def test_a_batch_without_a_tensor_is_refused():
    with pytest.raises(ConfigError, match="no tensor among the inputs"):
        as_batch(([1, 2], torch.arange(2)), nn.CrossEntropyLoss())


def test_parts_cut_what_has_the_batch_dimension():
    x, scale, y = torch.randn(8, 2), torch.ones(3), torch.arange(8)

    part = as_batch(((x, scale), y), nn.CrossEntropyLoss()).part(2, 5)

    assert torch.equal(part.inputs[0], x[2:5])
    assert part.inputs[1] is scale
    assert torch.equal(part.target, y[2:5])


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x,), lambda x: {"input": x}])
def test_models_are_called_with_tensor_tuple_or_mapping(form):
    layer, x = nn.Linear(2, 3), torch.randn(4, 2)

    assert torch.equal(call(layer, form(x)), layer(x))


def test_loss_of_many_values_is_their_mean():
    values = torch.tensor([1.0, 3.0])

    assert loss_of(values, None, lambda o, _: o) == 2


def test_loss_in_a_tuple_or_a_dictionary():
    loss = torch.tensor(2.0, requires_grad=True)

    assert loss_of(loss, None, lambda o, _: (o, "log")) == 2
    assert loss_of(loss, None, lambda o, _: {"a": o, "b": o}) == 4
    assert loss_of((torch.randn(4, 2), loss), None, None) is loss
    assert loss_of({"loss": loss, "logits": torch.randn(2)}, None, None) is loss


def test_a_number_is_no_loss():
    output = torch.randn(2, 3)

    with pytest.raises(ConfigError, match=r"a float, not a tensor.*without \.item\(\)"):
        loss_of(output, torch.arange(2), lambda o, y: functional.cross_entropy(o, y).item())
    with pytest.raises(ConfigError, match=r"holds no loss. Pass loss_fn"):
        loss_of(output, None, None)


def test_main_output_is_the_first_floating_tensor_with_dimensions():
    logits = torch.randn(4, 2)

    assert main_output((torch.arange(3), torch.tensor(1.0), logits)) is logits
    assert main_output({"ids": torch.arange(3)}) is None


def test_tensors_are_found_in_dataclasses():
    @dataclass
    class Output:
        loss: torch.Tensor
        rest: dict[str, torch.Tensor]

    output = Output(torch.ones(()), {"a": torch.zeros(2)})

    assert [t.ndim for t in find_tensors(output)] == [0, 1]


def test_mapping_tensors_keeps_the_structure():
    made = map_tensors({"a": [torch.ones(1), "text"], "b": (torch.ones(1),)}, lambda t: t + 1)

    assert made["a"] == [torch.full((1,), 2.0), "text"]
    assert made["b"] == (torch.full((1,), 2.0),)


def test_rms_of_nothing_is_zero():
    assert rms(torch.zeros(0)) == 0
    assert rms(torch.tensor([3.0, -4.0])) == pytest.approx((25 / 2) ** 0.5)
