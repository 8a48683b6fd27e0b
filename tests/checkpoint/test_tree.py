import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from trimtab import ConfigError
from trimtab.checkpoint._tree import assemble, flatten, unflatten

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
tensors = st.integers(0, 9).map(lambda n: torch.full((1,), n))
reserved = st.sampled_from(
    ["__tensor__", "__tuple__", "__pairs__", "__bytes__", "__metadata__", "a", "a.a", ".a", "0", ""]
)
keys = reserved | st.text() | st.integers()
trees = st.recursive(
    leaves | tensors,
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(trees)
def test_every_tree_comes_back_through_json_and_safetensors(tree):
    structure, found = flatten(tree)
    back = unflatten(json.loads(json.dumps(structure)), load(save(found)))
    assert repr(back) == repr(tree)


@pytest.mark.parametrize("first", ["a.b", "nested"])
def test_tensors_whose_paths_read_alike_are_kept_apart(first):
    one, two = torch.zeros(1), torch.ones(1)
    state = {"a.b": one, "a": {"b": two}} if first == "a.b" else {"a": {"b": two}, "a.b": one}
    assert repr(unflatten(*flatten(state))) == repr(state)


def test_conjugated_views_are_saved_as_what_they_show():
    value = torch.tensor([1 + 2j])
    state = {"a": value.conj(), "b": value}
    structure, found = flatten(state)
    assert unflatten(structure, load(save(found)))["a"].tolist() == [1 - 2j]


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


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [(torch.eye(2).to_sparse(), "torch.sparse_coo tensor"), (torch.ones(1, device="meta"), "meta")],
)
def test_tensors_that_cannot_be_saved_are_refused(tensor, kind):
    with pytest.raises(ConfigError, match=f"State at a is a {kind}"):
        flatten({"a": tensor})


def test_state_without_end_is_refused():
    state = {}
    state["self"] = state
    with pytest.raises(ConfigError, match="contains itself"):
        flatten(state)


def test_assemble_shows_what_is_in_the_same_place():
    structure, tensors = flatten({"a": [torch.zeros(1), (torch.ones(1),)], 5: torch.ones(2)})
    likes = {}
    like = {"a": [1, (2,)], 5: 3, "more": 4}
    assemble(structure, lambda name, like: likes.setdefault(name, like) or tensors[name], like)
    assert likes == {"a.0": 1, "a.1.0": 2, "5": 3}
    assemble(structure, lambda name, like: likes.update({name: like}), {"a": []})
    assert likes == {"a.0": None, "a.1.0": None, "5": None}
