import math

import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init import deepnorm_, deepnorm_constants, he_

NUM_LAYERS = 50
BETA = (8 * NUM_LAYERS) ** -0.25


def gain(weight, measured):
    """How many times Xavier's standard deviation a matrix has."""
    return math.sqrt(measured(weight) * sum(weight.shape) / 2)


def test_constants():
    assert deepnorm_constants(1) == pytest.approx((2**0.25, 8**-0.25))
    assert deepnorm_constants(50) == pytest.approx((100**0.25, 400**-0.25))
    with pytest.raises(ConfigError, match="num_layers must be an integer"):
        deepnorm_constants(0)


def test_pytorchs_own_layer(generator, measured):
    layer = nn.TransformerEncoderLayer(300, 2, 500)
    deepnorm_(layer, num_layers=NUM_LAYERS, generator=generator)

    query, key, value = layer.self_attn.in_proj_weight.split(300)
    for weight, expected in (
        (query, 1), (key, 1), (value, BETA), (layer.self_attn.out_proj.weight, BETA),
        (layer.linear1.weight, BETA), (layer.linear2.weight, BETA),
    ):  # fmt: skip
        assert gain(weight, measured) == pytest.approx(expected, rel=0.02)
    assert (layer.self_attn.in_proj_bias == 0).all()


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("q_proj", False), ("k_proj", False), ("v_proj", True), ("out_proj", True),
        ("up_proj", True), ("gate_proj", True), ("down_proj", True), ("fc1", True), ("w3", True),
        ("query", False), ("value", True), ("mlp", True), ("branch", True), ("router", False),
    ],
)  # fmt: skip
def test_names(name, small, generator, measured):
    net = nn.ModuleDict({name: nn.ModuleDict({"0": nn.Linear(300, 200)})})
    if name not in {"mlp", "branch"}:
        net = nn.ModuleDict({name: nn.Linear(300, 200)})
    net["o_proj"] = nn.Linear(1, 1)

    deepnorm_(net, num_layers=NUM_LAYERS, generator=generator)

    weight = next(net[name].parameters())
    assert gain(weight, measured) == pytest.approx(BETA if small else 1, rel=0.02)


def test_a_fused_linear_layer(generator, measured):
    net = nn.ModuleDict({"qkv": nn.Linear(300, 900)})

    deepnorm_(net, num_layers=NUM_LAYERS, generator=generator)

    gains = [gain(part, measured) for part in net["qkv"].weight.split(300)]
    assert gains == pytest.approx([1, 1, BETA], rel=0.02)


def test_a_fused_layer_that_cannot_be_cut():
    with pytest.raises(ConfigError, match="'qkv' maps 4 to 8 features"):
        deepnorm_(nn.ModuleDict({"qkv": nn.Linear(4, 8)}), num_layers=2)


def test_nothing_recognised():
    with pytest.raises(ConfigError, match=r"No feed-forward, value or output .* in Sequential"):
        deepnorm_(nn.Sequential(nn.Linear(2, 2)), num_layers=2)


def test_embeddings_stay(generator):
    net = nn.ModuleDict({"embedding": nn.Embedding(4, 4), "fc1": nn.Linear(4, 4)})
    before = net["embedding"].weight.clone()

    deepnorm_(net, num_layers=2, generator=generator)

    assert torch.equal(net["embedding"].weight, before)


def test_one_step_moves_a_stack_of_100_layers_less(generator):
    """DeepNorm's claim: the change of the output in one step is bounded at any depth."""
    alpha, _ = deepnorm_constants(100)
    x = torch.randn(16, 64, generator=generator)
    probe = torch.randn(16, 64, generator=generator)

    def run(layers, factor):
        y = x
        for net in layers:
            y = nn.functional.layer_norm(factor * y + net["fc2"](net["fc1"](y).relu()), (64,))
        return y

    def change(factor, initialise):
        layers = nn.ModuleList(
            initialise(nn.ModuleDict({"fc1": nn.Linear(64, 64), "fc2": nn.Linear(64, 64)}))
            for _ in range(100)
        )
        before = run(layers, factor)
        gradients = torch.autograd.grad((before * probe).sum(), list(layers.parameters()))
        with torch.no_grad():
            for p, gradient in zip(layers.parameters(), gradients, strict=True):
                p.sub_(1e-4 * gradient.sign())  # Adam's first step
            return (run(layers, factor) - before).square().mean().sqrt().item()

    deep = change(alpha, lambda net: deepnorm_(net, num_layers=100, generator=generator))
    plain = change(1.0, lambda net: he_(net, generator=generator))

    assert deep < 0.1
    assert plain > 10 * deep
