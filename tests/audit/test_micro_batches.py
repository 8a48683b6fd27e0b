import pytest
import torch

from trimtab.audit._micro_batches import (
    chunk_sizes,
    cut,
    equal_sizes,
    growing_sizes,
    join,
    num_examples,
    to_dtype,
)
from trimtab.errors import ConfigError


def test_sizes():
    assert equal_sizes(12, 4) == (3, 3, 3, 3)
    assert chunk_sizes(29, 4) == (8, 8, 8, 5)
    assert growing_sizes(20, 4) == (2, 4, 6, 8)


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
@pytest.mark.parametrize("extra", range(5))
def test_growing_sizes_grow_and_add_up(parts, extra):
    total = parts * (parts + 1) + extra
    sizes = growing_sizes(total, parts)

    assert sum(sizes) == total
    assert min(sizes) >= 1
    assert sizes[0] < sizes[-1]


def test_a_batch_is_cut_whatever_it_is_made_of():
    x = {"a": torch.arange(6), "b": [torch.arange(12).reshape(6, 2), 3], "c": torch.tensor(1.0)}
    first, second = cut((x, (torch.arange(6), None)), (2, 3))

    assert first[0]["a"].tolist() == [0, 1]
    assert second[0]["a"].tolist() == [2, 3, 4]
    assert second[0]["b"][0].shape == (3, 2)
    assert (second[0]["b"][1], second[0]["c"], second[1][1]) == (3, 1.0, None)
    assert second[1][0].tolist() == [2, 3, 4]


def test_joining_undoes_cutting():
    pair = ({"a": torch.randn(6, 2)}, [torch.arange(6), 5])

    whole = join(cut(pair, (2, 3, 1)))

    assert torch.equal(whole[0]["a"], pair[0]["a"])
    assert whole[1][0].tolist() == pair[1][0].tolist()
    assert whole[1][1] == 5
    assert join([pair]) is pair


def test_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match="first batches are small and cannot be joined"):
        join([(torch.zeros(2, 3), 0), (torch.zeros(2, 4), 0)])
    with pytest.raises(ConfigError, match="its inputs hold no tensor with an axis"):
        num_examples((torch.tensor(1.0), torch.zeros(3)))


def test_only_floating_point_changes_its_dtype():
    value = {"a": torch.zeros(2), "b": (torch.zeros(2, dtype=torch.long), "text")}

    changed = to_dtype(value, torch.float64)

    assert changed["a"].dtype == torch.float64
    assert (changed["b"][0].dtype, changed["b"][1]) == (torch.long, "text")
