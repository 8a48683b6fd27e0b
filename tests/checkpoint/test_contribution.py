import json

import pytest
import torch
from safetensors.torch import load

from trimtab import ConfigError
from trimtab.checkpoint._contribution import collect, encode_contribution
from trimtab.checkpoint._ranks import Ranks


def make():
    tied = torch.ones(2)
    return collect({"a": tied, "b": tied}, {"m": [torch.zeros(3)]}, {"own": tied}, Ranks())


def test_nothing_is_copied_before_it_is_encoded():
    weight = torch.ones(2)
    part = collect({"a": weight}, {}, {}, Ranks())
    assert part.model["a"].data_ptr() == weight.data_ptr()


def test_tensors_become_two_files_and_the_rest_two_others():
    files = {name: b"".join(chunks) for name, chunks in encode_contribution(make()).items()}
    model, state = (load(files[f"{n}-00000-of-00001.safetensors"]) for n in ("model", "state"))
    assert model["a"].tolist() == [1, 1]
    assert model.keys() == {"a"}
    assert {n: t.tolist() for n, t in state.items()} == {"shared.m.0": [0] * 3, "own.own": [1, 1]}
    assert json.loads(files["rank-00000-of-00001.json"]).keys() == {"model", "state", "own"}
    assert json.loads(files["state.json"]).keys() == {"model", "state"}


def test_files_show_the_memory_that_tensors_were_moved_to():
    moved = {}

    def move(tensors):
        moved.update({n: torch.empty_like(t) for n, t in tensors.items()})
        return dict(moved)

    files = encode_contribution(make(), move, move)
    for tensor in moved.values():  # it arrives only now
        tensor.fill_(7)
    content = b"".join(files["model-00000-of-00001.safetensors"])
    assert load(content)["a"].tolist() == [7, 7]


def test_a_name_in_both_states_is_refused():
    with pytest.raises(ConfigError, match="'x' is in state and in rank_state"):
        collect({}, {"x": 1}, {"x": 2}, Ranks())
