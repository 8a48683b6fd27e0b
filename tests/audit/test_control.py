import sys

import pytest
import torch

from trimtab.diagnosis import _batches


def told(resume, build, **options):
    return resume(build, without=["optimizer"], **options).facts["with trimtab.checkpoint"]


def test_a_checkpoint_brings_the_run_back(resume, make_build):
    assert told(resume, make_build(lambda: torch.nn.Dropout(0.5))) == (
        "equal bit for bit, given the same batches"
    )


def test_it_is_not_asked_of_runs_that_are_right(resume, make_build):
    assert "with trimtab.checkpoint" not in resume(make_build()).facts


def test_it_says_why_it_was_not_tried(resume, make_build, monkeypatch):
    monkeypatch.setattr(_batches, "KEEP_BYTES", 0)

    assert told(resume, make_build()) == "not tried: The batches are too large to keep."


def test_without_safetensors_it_is_not_tried(resume, make_build, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)

    assert told(resume, make_build()).startswith("not tried: import of safetensors")


@pytest.mark.parametrize("steps", [4, 6])
def test_random_states_are_put_back(resume, make_build, steps):
    before = torch.get_rng_state()

    resume(make_build(), without=["optimizer"], steps=steps)

    assert torch.equal(before, torch.get_rng_state())
