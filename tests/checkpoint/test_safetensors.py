import pytest
import torch
from safetensors.torch import load, save

from trimtab import ConfigError
from trimtab.checkpoint._safetensors import _CODES, serialise

DTYPES = [getattr(torch, name) for name in _CODES]


def joined(*args):
    return b"".join(bytes(chunk) for chunk in serialise(*args))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_what_safetensors_itself_reads(dtype):
    data = torch.arange(48, dtype=torch.uint8) % 2  # valid as any type
    tensors = {"a": data.view(dtype).reshape(2, -1) if dtype != torch.bool else data.bool()}
    loaded = load(joined(tensors))["a"]
    assert (loaded.dtype, loaded.shape) == (dtype, tensors["a"].shape)
    assert loaded.view(torch.uint8).tolist() == tensors["a"].view(torch.uint8).tolist()


def test_is_byte_for_byte_what_safetensors_itself_writes():
    tensors = {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "b": torch.rand(4, 5, generator=torch.Generator().manual_seed(0)),
        "a": torch.arange(6).view(2, 3),
        "flag": torch.tensor([True]),
        "point": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        'ü"\\\n\u2028': torch.zeros(1),
    }
    assert joined(tensors, {"format": "pt"}) == save(tensors, {"format": "pt"})
    assert joined({}) == save({})


def test_nothing_is_copied():
    tensor = torch.zeros(3)
    _, chunk = serialise({"a": tensor})
    tensor.fill_(1)
    assert bytes(chunk) == torch.ones(3).numpy().tobytes()


def test_types_that_the_format_does_not_have():
    with pytest.raises(ConfigError, match=r"^a has type torch\.complex128, which a safetensors"):
        serialise({"a": torch.ones(1, dtype=torch.complex128)})
