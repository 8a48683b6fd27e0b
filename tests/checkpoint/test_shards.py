import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.checkpoint._shards import Box, is_sharded, parts_to_write

spans = st.tuples(st.integers(0, 6), st.integers(0, 6))
boxes = st.tuples(spans, spans).map(
    lambda pair: Box(offset=(pair[0][0], pair[1][0]), size=(pair[0][1], pair[1][1]))
)
WHOLE = torch.arange(12 * 12).view(12, 12)


@given(boxes, boxes)
def test_overlaps_show_the_same_numbers(one, two):
    seen = [set(box.of(WHOLE).flatten().tolist()) for box in (one, two)]
    pair = one.overlap(two)
    if pair is None:
        assert not seen[0] & seen[1]
    else:
        in_one, in_two = pair[0].of(one.of(WHOLE)), pair[1].of(two.of(WHOLE))
        assert torch.equal(in_one, in_two)
        assert set(in_one.flatten().tolist()) == seen[0] & seen[1]


def test_a_single_number_covers_itself():
    point = Box(offset=(), size=())
    assert point.overlap(point) == (point, point)
    assert point.of(torch.tensor(5)).item() == 5


def test_whole_tensors_are_written_by_rank_0():
    tensors = {"a": torch.ones(2, 3, dtype=torch.bfloat16)}
    parts, index = parts_to_write(tensors, rank=0)
    assert torch.equal(parts["a"], tensors["a"])
    assert index == {"a": {"shape": [2, 3], "offset": [0, 0], "size": [2, 3], "dtype": "bfloat16"}}
    assert parts_to_write(tensors, rank=1) == ({}, {})
    assert not is_sharded(tensors["a"])
