import pytest
import torch

from trimtab import ConfigError
from trimtab.train import RunConfig
from trimtab.train._device import pick_device, pick_precision


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_auto_takes_the_accelerator_that_is_there(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(expected)


def test_a_device_by_name():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "warp", "cuda:x", "cuda:99", "cpu:-2", "gpu"])
def test_one_that_is_not_there_is_refused_by_its_name(name):
    with pytest.raises(ConfigError, match=f"^Device '{name}' cannot be used here: .*$"):
        pick_device(name)


def test_of_a_long_reason_the_first_line_is_told(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: out of memory\nFor debugging consider ...")

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(ConfigError, match=r"cannot be used here: CUDA error: out of memory$"):
        pick_device("cuda:0")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_precision_asked_for_is_taken(precision):
    assert pick_precision(RunConfig(precision=precision), torch.device("cpu")) == precision


@pytest.mark.parametrize(
    ("device", "has_bf16", "expected"),
    [("cpu", True, "fp32"), ("cuda", True, "bf16"), ("cuda", False, "fp32")],
)
def test_auto_takes_the_fastest_that_is_safe(monkeypatch, device, has_bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    assert pick_precision(RunConfig(), torch.device(device)) == expected
