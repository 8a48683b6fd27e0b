import pytest
import torch
from torch import nn

from trimtab.init._fans import fans


def test_counts(known_layer):
    layer, fan_in, fan_out = known_layer

    assert fans(layer, layer.weight) == (fan_in, fan_out)


def test_plain_layers_count_as_in_pytorch():
    for layer in (nn.Linear(5, 7), nn.Conv2d(5, 7, 3)):
        assert fans(layer, layer.weight) == nn.init._calculate_fan_in_and_fan_out(layer.weight)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_transposed_convolutions_output_meets_that_many_inputs(stride):
    layer = nn.ConvTranspose1d(3, 1, 8, stride=stride, bias=False)
    nn.init.ones_(layer.weight)

    middle = layer(torch.ones(1, 3, 64))[0, 0, 16:-16]

    assert middle.mean().item() == pytest.approx(fans(layer, layer.weight)[0])


def test_a_kernel_smaller_than_its_stride_still_meets_one_input():
    layer = nn.ConvTranspose1d(3, 2, 1, stride=2)

    assert fans(layer, layer.weight) == (3, 2)


def test_hugging_face_conv1d_is_transposed():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D(7, 5)

    assert fans(conv1d, conv1d.weight) == (5, 7)
