"""Reading norms and leaves from autograd's graph."""

import pytest
import torch
from torch import nn

from trimtab.nn import StableNet
from trimtab.preflight._graph import read_graph
from trimtab.preflight._records import recording


def graph_of(model, x):
    with recording(model) as records:
        loss = model(x).square().mean()
    return read_graph(loss, [(r.given_node, r.made_node) for r in records if r.made_node])


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_tells_post_norm_from_pre_norm(norm_first, kind):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 3, norm=kind(8), enable_nested_tensor=False)
    for each in model.layers:
        each.norm1, each.norm2 = kind(8), kind(8)

    graph = graph_of(model, torch.randn(2, 4, 8, requires_grad=True))

    assert graph.is_post_norm is not norm_first
    assert graph.closing_norms == (1 if norm_first else 6)


def test_finds_deep_norm_in_our_own_network():
    graph = graph_of(StableNet(8, 3, width=16, depth=4, residual="deep_norm"), torch.randn(2, 8))

    assert graph.is_post_norm


def test_networks_without_sums_have_none():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8))

    graph = graph_of(model, torch.randn(2, 8))

    assert graph.norms_of_sums == 0
    assert not graph.is_post_norm


def test_lists_the_leaves():
    model, hidden = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    graph = read_graph((model(torch.randn(2, 4)) * hidden).sum(), [])

    assert {id(t) for t in graph.leaves} == {id(model.weight), id(model.bias), id(hidden)}
