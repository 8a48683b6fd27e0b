import copy
import math

import pytest
import torch
from torch import nn

from trimtab import StabilityWarning
from trimtab.nn import DeepNorm, Highway, LayerScale, PostNorm, PreNorm, ReZero, StableNet
from trimtab.nn._residual_choice import RESIDUALS, residual, warn_if_unstable

BY_HAND = {
    "pre_norm": lambda branch, depth: PreNorm(branch, 6),
    "post_norm": lambda branch, depth: PostNorm(branch, 6),
    "deep_norm": lambda branch, depth: DeepNorm(branch, 6, num_layers=depth),
    "rezero": lambda branch, depth: ReZero(branch, 6, norm="layer"),
    "layer_scale": lambda branch, depth: LayerScale(
        branch, 6, init=0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6
    ),
    "highway": lambda branch, depth: Highway(
        branch, 6, gate_bias=min(-2.0, -math.log(depth)), norm="layer"
    ),
}


def test_every_kind_is_there():
    assert sorted(BY_HAND) == list(RESIDUALS)


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize("depth", [1, 18, 24, 100])
def test_is_the_class_with_the_settings_of_that_depth(generator, kind, depth):
    branch = nn.Linear(6, 6)
    x = torch.randn(5, 6, generator=generator)

    by_name = residual(kind, branch, 6, num_layers=depth)
    by_hand = BY_HAND[kind](copy.deepcopy(branch), depth)

    by_hand.load_state_dict(by_name.state_dict())
    assert torch.equal(by_name(x), by_hand(x))
    assert by_name.extra_repr() == by_hand.extra_repr()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["layer_scale", "highway"])
def test_the_deeper_the_stack_the_less_of_a_branch_comes_in(generator, kind):
    x = torch.randn(5, 6, generator=generator)
    branch = nn.Linear(6, 6)
    added = []
    for depth in (2, 20, 200):
        wrapper = residual(kind, branch, 6, num_layers=depth)
        if kind == "highway":
            nn.init.zeros_(wrapper.gate.weight)
        added.append(float((wrapper(x) - x).norm()))
    assert added[0] > added[1] > added[2] > 0


@pytest.mark.parametrize("num_layers", [18, 100])
def test_deep_post_norm_warns(num_layers):
    message = rf"post_norm with {num_layers} layers: .* Use residual='deep_norm'.*or 'pre_norm'\."
    with pytest.warns(StabilityWarning, match=message):
        warn_if_unstable("post_norm", num_layers)


@pytest.mark.parametrize("kind", RESIDUALS)
def test_everything_else_is_silent(kind):
    warn_if_unstable(kind, 17 if kind == "post_norm" else 1000)


def test_the_warning_points_at_who_builds_the_model():
    with pytest.warns(StabilityWarning) as caught:
        StableNet(4, 2, width=8, depth=18, residual="post_norm")
    assert [w.filename for w in caught] == [__file__]
