import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab import ConfigError
from trimtab.checkpoint._tree import flatten, unflatten

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.integers()
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(trees)
def test_every_tree_comes_back_through_json(tree):
    structure, tensors = flatten(tree)
    assert repr(unflatten(json.loads(json.dumps(structure)), tensors)) == repr(tree)


def test_tensors_come_back_with_their_dtype():
    state = {"a": [torch.arange(3), {7: torch.ones(2, dtype=torch.bfloat16)}]}
    structure, tensors = flatten(state)
    back = unflatten(json.loads(json.dumps(structure)), tensors)
    torch.testing.assert_close(back, state, rtol=0, atol=0)


def test_tied_tensors_are_kept_once():
    weight = torch.ones(4, 4)
    structure, tensors = flatten({"embed": weight, "head": weight, "other": weight.clone()})
    assert len(tensors) == 2
    assert unflatten(structure, tensors)["head"].shape == (4, 4)


def test_views_of_one_memory_are_kept_apart():
    memory = torch.arange(6.0)
    state = {"a": memory[:3], "b": memory[3:], "c": memory.view(2, 3)}
    structure, tensors = flatten(state)
    torch.testing.assert_close(unflatten(structure, tensors), state)


def test_what_only_pickling_could_save_is_refused_with_its_place():
    with pytest.raises(ConfigError, match=r"State at a\.1 is a function"):
        flatten({"a": [1, lambda: None]})
