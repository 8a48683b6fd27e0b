import math

import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init import fixup_, he_


class Block(nn.Module):
    def __init__(self, layers=2, width=128):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width))
        for _ in range(layers - 1):
            self.branch.extend([nn.ReLU(), nn.Linear(width, width)])

    def forward(self, x):
        return x + self.branch(x)


def network(depth, layers=2, width=128):
    blocks = nn.Sequential(*(Block(layers, width) for _ in range(depth)))
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), blocks, nn.Linear(width, 10))


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_scale_of_a_branch(layers, generator, measured):
    net = fixup_(network(20, layers), generator=generator)

    he = 2 / 128
    shrunk = he * 20 ** (-2 / (2 * layers - 2))
    for block in net[2]:
        *first, last = (m for m in block.branch if isinstance(m, nn.Linear))
        assert all(measured(m.weight) == pytest.approx(shrunk, rel=0.08) for m in first)
        assert (last.weight == 0).all()
    assert measured(net[0].weight) == pytest.approx(he, rel=0.05)
    assert (net[3].weight == 0).all()


def test_a_branch_of_one_layer_is_zero(generator):
    net = fixup_(network(3, layers=1), generator=generator)

    assert all((block.branch[0].weight == 0).all() for block in net[2])


def test_starts_as_the_identity_and_learns_evenly_at_any_depth(generator):
    x = torch.randn(16, 128, generator=generator)
    target = torch.randint(10, (16,), generator=generator)

    def change(depth, initialise):
        net = initialise(network(depth), generator=generator)
        nn.init.normal_(net[3].weight, std=0.02, generator=generator)  # or no gradient passes
        before = net[2](x)
        nn.functional.cross_entropy(net(x), target).backward()
        with torch.no_grad():
            for p in net[2].parameters():
                p.sub_(0.01 * p.grad)
        return (before - x).abs().max().item(), (net[2](x) - before).square().mean().sqrt().item()

    (still, shallow), (_, deep) = change(4, fixup_), change(64, fixup_)
    loud, _ = change(64, he_)

    assert still == 0
    assert deep < 3 * shallow
    assert loud > 1e6


def test_branches_and_classifier_can_be_given(generator):
    net = nn.ModuleDict({
        "out": nn.Linear(4, 4), "a": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
        "stem": nn.Linear(4, 4),
    })  # fmt: skip

    fixup_(net, branches=[net["a"]], classifier=net["out"], generator=generator)

    zero = [n for n, p in net.named_parameters() if n.endswith("weight") and (p == 0).all()]
    assert zero == ["out.weight", "a.1.weight"]


def test_layers_before_the_branches_are_no_classifier(generator):
    net = nn.Sequential(nn.Linear(128, 128), Block())

    assert (fixup_(net, generator=generator)[0].weight != 0).any()


def test_attention_counts_as_two_layers(generator, measured):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.MultiheadAttention(128, 2)

    net = fixup_(nn.Sequential(*(Wrapper() for _ in range(4))), generator=generator)

    expected = math.sqrt(2 / 128) * 4**-0.5
    assert math.sqrt(measured(net[1].branch.in_proj_weight)) == pytest.approx(expected, rel=0.03)
    assert (net[1].branch.out_proj.weight == 0).all()


def test_a_branch_inside_another_belongs_to_it(generator):
    outer = Block()
    outer.branch.append(Block())

    fixup_(nn.Sequential(outer), generator=generator)

    assert (outer.branch[0].weight != 0).any()
    assert (outer.branch[3].branch[2].weight == 0).all()


def test_no_branches():
    net, relu = nn.Sequential(nn.Linear(2, 2)), nn.ReLU()
    before = net[0].weight.clone()

    with pytest.raises(ConfigError, match=r"branches of Sequential, got none\. Pass branches="):
        fixup_(net)
    with pytest.raises(ConfigError, match=r"got \['Linear'\]"):
        fixup_(net, branches=[nn.Linear(2, 2)])
    with pytest.raises(ConfigError, match="None of the 1 residual branches has a layer"):
        fixup_(nn.Sequential(net, relu), branches=[relu])
    assert torch.equal(net[0].weight, before)
