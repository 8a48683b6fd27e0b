import sys

import pytest
import torch

from trimtab.signals._memory import memory_bytes


def test_the_resident_set_of_this_process():
    size = memory_bytes(torch.device("cpu"))
    assert 2**25 < size < 2**40  # torch alone takes more than 32 MB
    block = torch.ones(2**24)  # 64 MB
    assert memory_bytes(torch.device("cpu")) >= size
    del block
    assert memory_bytes(torch.device("cpu")) >= size  # the largest, not the present one


def test_where_nobody_can_tell(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    size = memory_bytes(torch.device("cpu"))
    assert size != size


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda():
    block = torch.ones(2**20, device="cuda")
    assert memory_bytes(block.device) >= 2**22
