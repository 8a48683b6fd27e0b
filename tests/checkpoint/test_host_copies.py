import pytest
import torch

from trimtab.checkpoint._host_copies import HostCopies


def test_copies_are_independent_and_their_memory_is_used_again():
    copies = HostCopies()
    source = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16)}
    first = copies.take(source)
    copies.wait()
    places = {n: t.data_ptr() for n, t in first.items()}
    assert torch.equal(first["a"], source["a"])
    assert first["a"].is_contiguous()
    source["a"].add_(1)
    assert not torch.equal(first["a"], source["a"])
    second = copies.take(source)
    assert {n: t.data_ptr() for n, t in second.items()} == places
    assert torch.equal(second["a"], source["a"])


def test_what_changed_its_shape_or_type_gets_other_memory():
    copies = HostCopies()
    copies.take({"a": torch.ones(2), "b": torch.ones(2), "gone": torch.ones(2)})
    taken = copies.take({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.int64)})
    assert {n: (tuple(t.shape), t.dtype) for n, t in taken.items()} == {
        "a": ((3,), torch.float32),
        "b": ((2,), torch.int64),
    }
    assert copies._kept.keys() == {"a", "b"}


def test_views_that_are_seen_conjugated_are_resolved():
    source = torch.tensor([1 + 2j, 3 - 1j]).conj()
    assert HostCopies().take({"a": source})["a"].tolist() == [1 - 2j, 3 + 1j]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_from_a_device_nobody_waits_before_the_end():
    copies = HostCopies()
    source = {"a": torch.ones(1 << 24, device="cuda")}
    copies.take(source)
    torch.cuda.synchronize()
    torch.cuda._sleep(1 << 28)
    taken = copies.take(source)["a"]
    assert taken.is_pinned()
    assert not all(e.query() for e in copies._copied)
    source["a"].zero_()  # on the same stream, so after the copy
    copies.wait()
    assert bool((taken == 1).all())
