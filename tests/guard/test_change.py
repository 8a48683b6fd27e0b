import json

import pytest

from trimtab.errors import ConfigError
from trimtab.guard import Change

CHANGES = {
    "as it was": Change(),
    "learning rate × 0.5": Change(lr=0.5),
    "learning rate of at most 0.01": Change(lr_cap=0.01),
    "gradients clipped to 0.5": Change(clip=0.5),
    "in fp32": Change(precision="fp32"),
    "fresh moments of the optimizer": Change(fresh_moments=True),
    "attention logits capped at 50": Change(attention_cap=50.0),
    "without the data of step 7": Change(without=frozenset({7})),
    "without the data of steps 3, 7 to 9": Change(without=frozenset({9, 8, 7, 3})),
    "without the data of step 7, learning rate × 0.5": Change(lr=0.5, without=frozenset({7})),
}


@pytest.mark.parametrize("words", CHANGES)
def test_says_what_it_changes(words):
    assert str(CHANGES[words]) == words
    assert CHANGES[words].is_none == (words == "as it was")


@pytest.mark.parametrize("words", CHANGES)
def test_goes_through_json(words):
    change = CHANGES[words]

    data = json.loads(json.dumps(change.to_dict()))

    assert Change.from_dict(data) == change
    assert len(data) == (0 if change.is_none else words.count(", l") + 1)


def test_steps_may_come_as_any_collection():
    assert Change(without=[3, 3]) == Change(without=frozenset({3}))


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0},
        {"lr": float("nan")},
        {"lr_cap": -1.0},
        {"clip": float("inf")},
        {"attention_cap": 0.0},
    ],
)
def test_values_out_of_range_are_refused(settings):
    name = next(iter(settings))
    with pytest.raises(ConfigError, match=f"{name} of a change must be finite and positive, got"):
        Change(**settings)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="fp8"):
        Change(precision="fp8")


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({"lr": "0.5"}, Change(lr=0.5)),
        ({"lr_cap": "1e-3", "clip": "2"}, Change(lr_cap=1e-3, clip=2.0)),
        ({"precision": "bf16"}, Change(precision="bf16")),
        ({"fresh_moments": "True"}, Change(fresh_moments=True)),
        ({"fresh_moments": "false"}, Change()),
        ({"attention_cap": "50"}, Change(attention_cap=50.0)),
        ({"without": "7,8"}, Change(without=frozenset({7, 8}))),
    ],
)
def test_is_read_from_the_command_line(settings, change):
    assert Change.parse(settings) == change


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": "1"}, "There is no change 'rate'. Known are: lr, lr_cap, clip"),
        ({"lr": "half"}, "lr must be a factor, such as 0.5, got 'half'"),
        ({"without": "7-9"}, "without must be steps, such as 151,152, got '7-9'"),
        ({"fresh_moments": "yes"}, "fresh_moments must be true or false, got 'yes'"),
        ({"lr": "-1"}, "lr of a change must be finite and positive, got -1.0"),
    ],
)
def test_what_cannot_be_read_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Change.parse(settings)


def test_one_optimizer_may_be_meant():
    change = Change.parse({"lr_cap": "0.1", "clip": "2", "optimizer": "1"})

    assert str(change) == (
        "learning rate of optimizers[1] of at most 0.1, gradients of optimizers[1] clipped to 2"
    )
    assert Change.from_dict(change.to_dict()) == change
    with pytest.raises(ConfigError, match="optimizer of a change must be a number from 0 on"):
        Change(optimizer=-1)
