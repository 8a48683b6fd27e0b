import pytest
import torch

from trimtab.signals import Readback


def test_numbers_come_back_in_order():
    values = [torch.tensor(1.5), torch.tensor(float("nan")), torch.tensor(3, dtype=torch.float64)]
    numbers = Readback(values).numbers()
    assert numbers[0] == 1.5
    assert numbers[1] != numbers[1]
    assert numbers[2] == 3


def test_making_one_waits_for_nothing(no_host_sync):
    with no_host_sync():
        Readback([torch.tensor(1.0), torch.tensor(2.0)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_copy_is_asynchronous():
    values = [torch.full((), float(i), device="cuda") for i in range(3)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        readback = Readback(values)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert readback.numbers() == [0.0, 1.0, 2.0]
