from collections import OrderedDict, namedtuple

import torch

from trimtab.guard._leaves import InPlace, Leaf, put_together, rebuilt, take_apart

Pair = namedtuple("Pair", "first second")


def round_trip(value):
    tensors = []
    structure = take_apart(value, tensors)
    copies = [t.clone() for t in tensors]
    return put_together(structure, lambda leaf: rebuilt(leaf, copies[leaf.index]))


def test_nested_state_comes_back_as_it_was():
    state = {
        "step": 3,
        "rate": 1e-3,
        "pair": Pair(torch.arange(3), "x"),
        "nested": OrderedDict(a=[torch.ones(2, dtype=torch.bfloat16), None], b=(True, {1: "one"})),
        "names": {"a", "b"},
    }
    back = round_trip(state)
    assert torch.equal(back["pair"].first, torch.arange(3))
    assert torch.equal(back["nested"]["a"][0], torch.ones(2, dtype=torch.bfloat16))
    assert type(back["nested"]) is OrderedDict
    assert type(back["pair"]) is Pair
    assert (back["step"], back["rate"], back["pair"].second) == (3, 1e-3, "x")
    assert (back["nested"]["b"], back["names"]) == ((True, {1: "one"}), {"a", "b"})


def test_later_changes_do_not_reach_the_structure():
    state = {"history": [1, 2], "names": {"a"}}
    structure = take_apart(state, [])
    state["history"].append(3)
    state["names"].add("b")
    assert structure == {"history": [1, 2], "names": {"a"}}
    first = put_together(structure, lambda leaf: leaf)
    first["names"].add("c")
    assert put_together(structure, lambda leaf: leaf)["names"] == {"a"}


def test_memory_layout_is_kept():
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    back = round_trip([tensor])[0]
    assert torch.equal(back, tensor)
    assert back.stride() == tensor.stride()


def into(old, now):
    tensors = []
    structure = take_apart(old, tensors)
    values = InPlace([t.clone() for t in tensors])
    result = values.into(structure, now)
    values.fill()
    return result


def test_values_go_into_the_tensors_that_are_there():
    moment = torch.zeros(3)
    now = {"moment": moment, "added": torch.ones(1), "step": 9}
    result = into({"moment": torch.arange(3.0), "step": 4}, now)
    assert result is now
    assert result["moment"] is moment
    assert torch.equal(moment, torch.arange(3.0))
    assert set(now) == {"moment", "step"}
    assert now["step"] == 4


def test_what_does_not_fit_is_made_anew():
    shaped, typed = torch.zeros(2), torch.zeros(3, dtype=torch.float16)
    now = {"shaped": shaped, "typed": typed, "list": [1]}
    old = {"shaped": torch.ones(3), "typed": torch.ones(3), "list": [torch.ones(1), 2], "gone": 1}
    result = into(old, now)
    assert result["shaped"] is not shaped
    assert torch.equal(result["shaped"], torch.ones(3))
    assert result["typed"].dtype == torch.float32
    assert (torch.equal(result["list"][0], torch.ones(1)), result["list"][1]) == (True, 2)
    assert result["gone"] == 1
    assert shaped.sum() == 0


def test_two_names_of_one_memory_get_two_values_back():
    shared = torch.zeros(2)
    result = into({"a": torch.ones(2), "b": torch.full((2,), 2.0)}, {"a": shared, "b": shared})
    assert result["a"].tolist() == [1, 1]
    assert result["b"].tolist() == [2, 2]


def test_a_leaf_says_where_its_tensor_was():
    tensors = []
    assert take_apart(torch.ones(2), tensors) == Leaf(0, torch.device("cpu"))
    assert len(tensors) == 1
