import math

import pytest
import torch

from trimtab.signals._sample import SAMPLE_SIZE, sample, sample_stride

SMALL = {
    "flat": torch.arange(12.0),
    "0-d": torch.tensor(3.0),
    "empty": torch.zeros(0, 5),
    "matrix": torch.arange(12.0).view(3, 4),
    "transposed": torch.arange(12.0).view(3, 4).t(),
    "permuted": torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
    "channels-last": torch.arange(48.0).view(2, 3, 2, 4).to(memory_format=torch.channels_last),
    "channels-last-3d": torch.arange(96.0)
    .view(2, 3, 2, 4, 2)
    .to(memory_format=torch.channels_last_3d),
    "sliced": torch.arange(24.0).view(4, 6)[1:, ::2],
    "offset": torch.arange(24.0)[5:17],
    "expanded": torch.arange(3.0)[:, None].expand(3, 4),
    "one-row": torch.arange(4.0)[None].t(),
    "half": torch.arange(12, dtype=torch.bfloat16).view(3, 4),
    "requires-grad": torch.arange(4.0, requires_grad=True).detach(),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_small_tensor_is_taken_whole(kind):
    tensor = SMALL[kind]
    part = sample(tensor)
    assert part.dtype == tensor.dtype
    assert sorted(part.tolist()) == sorted(tensor.flatten().tolist())


DENSE = ["flat", "matrix", "transposed", "permuted", "channels-last", "channels-last-3d", "offset"]


@pytest.mark.parametrize("kind", DENSE)
def test_nothing_is_copied_where_there_are_no_gaps(kind):
    tensor = SMALL[kind]
    assert sample(tensor).untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "transposed", "gaps"])
def test_a_large_one_is_sampled_within_the_error_of_the_sample(layout, generator):
    scales = torch.linspace(0.5, 2, 48)  # features of different scale
    tensor = torch.randn(64, 40, 8, 48, generator=generator) * scales
    tensor = {
        "contiguous": lambda t: t,
        "channels-last": lambda t: t.permute(0, 3, 1, 2),
        "transposed": lambda t: t.permute(2, 0, 3, 1),
        "gaps": lambda t: t[:, ::2],
    }[layout](tensor)
    part = sample(tensor)
    assert part.shape == (SAMPLE_SIZE,)
    rms, expected = part.square().mean().sqrt(), tensor.square().mean().sqrt()
    # Four standard errors of a normal sample, and what the features' scales add to it.
    assert rms.item() == pytest.approx(expected.item(), rel=4 * 0.03)


@pytest.mark.parametrize("last", [1, 2, 3, 64, 96, 768, 1000, 4096])
@pytest.mark.parametrize("count", [1, 1024, 1025, 5000, 2**20, 10**7])
def test_strides_stay_inside_and_visit_every_feature(last, count):
    stride = sample_stride(count, last)
    assert stride >= 1
    assert stride * (min(count, SAMPLE_SIZE) - 1) < count
    assert stride == 1 or math.gcd(stride, last) == 1


def test_sizes_of_ones_choice(generator):
    assert sample(torch.randn(1000, generator=generator), 64).shape == (64,)
