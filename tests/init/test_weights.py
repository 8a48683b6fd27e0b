import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init._weights import find_biases, find_weights


def summary(module, *kinds):
    weights = find_weights(module, kinds) if kinds else find_weights(module)
    return [(w.path, w.kind, w.role, tuple(w.values.shape), w.fan_in, w.fan_out) for w in weights]


def test_plain_layers_in_order():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Conv2d(3, 4, 1), nn.Embedding(5, 2))

    assert summary(model) == [
        ("0", "linear", "", (3, 2), 2, 3),
        ("2", "conv", "", (4, 3, 1, 1), 3, 4),
    ]


def test_attention_falls_into_its_projections():
    assert summary(nn.MultiheadAttention(4, 2)) == [
        ("in_proj_weight.query", "attention", "query", (4, 4), 4, 4),
        ("in_proj_weight.key", "attention", "key", (4, 4), 4, 4),
        ("in_proj_weight.value", "attention", "value", (4, 4), 4, 4),
        ("out_proj", "linear", "", (4, 4), 4, 4),
    ]


def test_attention_with_separate_projections():
    attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)

    assert [(p, r, i, o) for p, _, r, _, i, o in summary(attention, "attention")] == [
        ("q_proj_weight", "query", 4, 4),
        ("k_proj_weight", "key", 3, 4),
        ("v_proj_weight", "value", 5, 4),
    ]


@pytest.mark.parametrize(
    ("layer", "gates"),
    [(nn.LSTM(3, 5), 4), (nn.GRU(3, 5), 3), (nn.RNN(3, 5), 1), (nn.LSTMCell(3, 5), 4)],
)
def test_recurrent_layers_fall_into_their_gates(layer, gates):
    weights = summary(layer)

    assert [(role, shape, i, o) for _, _, role, shape, i, o in weights] == [
        *[("input", (5, 3), 3, 5)] * gates,
        *[("state", (5, 5), 5, 5)] * gates,
    ]
    assert {id(b) for b in find_biases(layer)} == {
        id(p) for n, p in layer.named_parameters() if "bias" in n
    }


def test_a_projected_lstm_has_one_more_matrix():
    assert summary(nn.LSTM(3, 5, proj_size=2))[-1] == (
        "weight_hr_l0.0", "recurrent", "input", (2, 5), 5, 2
    )  # fmt: skip


def test_parts_are_views():
    attention = nn.MultiheadAttention(4, 2)
    query, key, value, _ = find_weights(attention)

    for number, part in enumerate((query, key, value)):
        part.values.fill_(number)

    assert attention.in_proj_weight[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_tied_weights_come_once():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight

    assert [w.path for w in find_weights(nn.ModuleList([a, b, a]))] == ["0"]


def test_a_tied_embedding_is_an_embedding_whichever_comes_first():
    head, embedding = nn.Linear(4, 9), nn.Embedding(9, 4)
    head.weight = embedding.weight

    for layers in ([head, embedding], [embedding, head]):
        model = nn.ModuleList([*layers, nn.Linear(1, 1)])
        assert [w.path for w in find_weights(model)] == ["2"]


def test_frozen_and_parametrised_weights_are_left_out():
    model = nn.ModuleList([nn.Linear(3, 3) for _ in range(4)])
    model[1].weight.requires_grad_(False)
    nn.utils.parametrizations.weight_norm(model[2])
    model[3].bias.requires_grad_(False)

    assert [w.path for w in find_weights(model)] == ["0", "3"]
    assert find_biases(model[3]) == []


def test_nothing_to_initialise():
    for model in (nn.ReLU(), nn.Embedding(3, 3), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(ConfigError, match=f"{type(model).__name__} has no weight to init"):
            find_weights(model)


def test_lazy_layers():
    with pytest.raises(ConfigError, match=r"'1' has no shape yet\. Run one batch"):
        find_weights(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3)))


def test_learnt_keys_of_attention_are_no_biases():
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)

    assert [id(b) for b in find_biases(attention)] == [id(attention.in_proj_bias)]


def test_integer_weights_are_passed_over():
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)

    assert [w.path for w in find_weights(nn.Sequential(layer, nn.Linear(2, 2)))] == ["1"]
