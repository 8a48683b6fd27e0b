import math

import pytest
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init import gpt2_


class Layer(nn.Module):
    def __init__(self, end="c_proj", dim=200):
        super().__init__()
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(dim, 3 * dim), end: nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(dim, 2 * dim), end: nn.Linear(2 * dim, dim)})


def model(num_layers=8, end="c_proj"):
    return nn.ModuleDict(
        {
            "wte": nn.Embedding(300, 200),
            "h": nn.ModuleList(Layer(end) for _ in range(num_layers)),
            "head": nn.Linear(200, 300),
        }
    )


def stds(net, measured):
    return {n: math.sqrt(measured(p)) for n, p in net.named_parameters() if n.endswith("weight")}


@pytest.mark.parametrize("end", ["c_proj", "out_proj", "o_proj", "down_proj", "wo", "w2", "fc2"])
def test_ends_of_branches_are_smaller_and_layers_are_counted(end, generator, measured):
    found = stds(gpt2_(model(end=end), generator=generator), measured)

    for name, std in found.items():
        expected = 0.02 / math.sqrt(16) if f".{end}." in name else 0.02
        assert std == pytest.approx(expected, rel=0.03), name


def test_depth_std_and_names_can_be_given(generator, measured):
    net = model(2, end="finish")

    gpt2_(net, num_layers=50, std=0.1, residual=("mlp.finish",), generator=generator)

    found = stds(net, measured)
    assert found["h.1.mlp.finish.weight"] == pytest.approx(0.01, rel=0.03)
    assert found["h.1.attn.finish.weight"] == pytest.approx(0.1, rel=0.03)


def test_no_residual_branches(generator, measured):
    found = stds(gpt2_(model(2), residual=(), generator=generator), measured)

    assert all(std == pytest.approx(0.02, rel=0.03) for std in found.values())


def test_attention_of_pytorch(generator, measured):
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(200, 2, 400), 2, enable_nested_tensor=False
    )

    found = stds(gpt2_(encoder, generator=generator), measured)

    assert math.sqrt(measured(encoder.layers[0].self_attn.in_proj_weight)) == pytest.approx(
        0.02, rel=0.03
    )
    assert found["layers.1.self_attn.out_proj.weight"] == pytest.approx(0.01, rel=0.03)
    assert found["layers.1.linear2.weight"] == pytest.approx(0.01, rel=0.03)
    assert found["layers.1.linear1.weight"] == pytest.approx(0.02, rel=0.03)
    assert (encoder.layers[0].norm1.weight == 1).all()


@pytest.mark.slow
def test_hugging_face_gpt2(generator, measured):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=300, n_positions=16, n_embd=200, n_layer=2, n_head=2
    )
    net = transformers.GPT2LMHeadModel(config)

    gpt2_(net, generator=generator)

    layer = net.transformer.h[1]
    assert math.sqrt(measured(layer.attn.c_attn.weight)) == pytest.approx(0.02, rel=0.03)
    assert math.sqrt(measured(layer.mlp.c_proj.weight)) == pytest.approx(0.01, rel=0.03)
    assert math.sqrt(measured(net.lm_head.weight)) == pytest.approx(0.02, rel=0.03)


def test_names_that_are_not_there():
    with pytest.raises(ConfigError, match=r"No linear layer of Linear .*residual=\(\.\.\.\)"):
        gpt2_(nn.Linear(2, 2), num_layers=2)
    with pytest.raises(ConfigError, match=r"\(nothing\)"):
        gpt2_(model(1), residual=("nothing",))


@pytest.mark.parametrize(
    "net",
    [
        Layer(),
        nn.ModuleDict({"encoder": model(1)["h"], "decoder": model(1)["h"]}),
        nn.ModuleList([nn.ModuleList([Layer()])]),
    ],
    ids=["one bare layer", "two stacks", "nested numbers"],
)
def test_layers_that_cannot_be_counted(net):
    with pytest.raises(ConfigError, match=r"num_layers cannot be told.*Pass num_layers\."):
        gpt2_(net)

    gpt2_(net, num_layers=1)


def test_depth_out_of_range():
    with pytest.raises(ConfigError, match="num_layers must be an integer"):
        gpt2_(model(1), num_layers=0)
