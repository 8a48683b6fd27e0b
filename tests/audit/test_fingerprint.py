import numpy as np
import pytest
import torch

from trimtab.audit._fingerprint import fingerprint, leaves

VALUES = [
    None, True, False, 0, 1, 1.0, -0.0, 0.0, float("nan"), "1", b"1", 1j, (), [], [1], (1,), {},
    {"a": 1}, {"a": 2}, {1}, np.zeros(2), np.zeros(2, dtype=np.float32), np.float64(1),
    torch.zeros(2), torch.zeros(1, 2), torch.zeros(2, dtype=torch.float64), torch.zeros(0),
    torch.tensor(True), torch.tensor([0.0, -0.0]), torch.tensor([0.0, float("nan")]),
    torch.eye(2).to_sparse(), torch.Generator().manual_seed(1), torch.Generator().manual_seed(2),
]  # fmt: skip


def test_different_values_differ():
    prints = [fingerprint(value) for value in VALUES]

    assert len(set(prints)) == len(VALUES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int8])
def test_equal_tensors_are_equal_whatever_their_layout(dtype):
    value = torch.arange(6).reshape(2, 3).to(dtype)

    assert fingerprint(value) == fingerprint(value.t().contiguous().t())
    assert fingerprint(value) != fingerprint(value.t())


def test_one_bit_is_enough():
    value = torch.ones(1000)
    other = value.clone()
    other.view(torch.int32)[700] ^= 1

    assert fingerprint({"a": [value]}) != fingerprint({"a": [other]})


def test_the_order_of_keys_does_not_count():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a", "b"}) == fingerprint({"b", "a"})


def test_leaves_have_dotted_names_and_are_copies():
    value = torch.zeros(2)

    found = leaves({"a": {"b": value, 3: [1, (2, None)]}, "c": "text"})
    value += 1

    assert list(found) == ["a.b", "a.3.0", "a.3.1.0", "a.3.1.1", "c"]
    assert found["a.b"].tolist() == [0, 0]
    assert (found["a.3.1.0"], found["a.3.1.1"], found["c"]) == (2, None, "text")
