"""What all initialisers promise alike."""

import copy
import math

import pytest
import torch
from torch import nn

from trimtab import init
from trimtab.errors import ConfigError

X = torch.linspace(-1, 1, 24).view(4, 6).sin()


class Net(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.q_proj = nn.Linear(6, 6)
        self.branch = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.norm = nn.LayerNorm(8)
        self.out_proj = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.to(dtype)

    def forward(self, x):
        return self.scale * self.out_proj(self.norm(self.branch(torch.tanh(self.q_proj(x)))))


EVERY = {
    "auto_": init.auto_,
    "deepnorm_": lambda m, **k: init.deepnorm_(m, num_layers=2, **k),
    "fixup_": init.fixup_,
    "gpt2_": lambda m, **k: init.gpt2_(m, num_layers=2, **k),
    "he_": init.he_,
    "lsuv_": lambda m, **k: init.lsuv_(m, X, **k),
    "orthogonal_": init.orthogonal_,
    "trunc_normal_": init.trunc_normal_,
    "xavier_": init.xavier_,
}
ANY_MODULE = ["auto_", "he_", "orthogonal_", "trunc_normal_", "xavier_"]


@pytest.fixture(params=EVERY)
def initialise(request):
    return EVERY[request.param]


@pytest.fixture(params=ANY_MODULE)
def initialise_any(request):
    return EVERY[request.param]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_the_list_is_complete():
    assert sorted(EVERY) == [name for name in init.__all__ if name.endswith("_")]


def test_changes_in_place_and_zeroes_biases(initialise):
    net = Net()
    before = copy.deepcopy(net)

    assert initialise(net, generator=seeded()) is net

    for name in ("q_proj", "branch.0", "out_proj"):
        layer = net.get_submodule(name)
        assert not torch.equal(layer.weight, before.get_submodule(name).weight)
        assert (layer.bias == 0).all()


def test_leaves_other_parameters_alone(initialise):
    net = Net()
    for parameter in (net.norm.weight, net.norm.bias, net.scale):
        nn.init.normal_(parameter, generator=seeded())
    before = copy.deepcopy(net)

    initialise(net, generator=seeded())

    assert torch.equal(net.scale, before.scale)
    assert same(net.norm, before.norm)


def test_a_generator_repeats_it_and_global_state_stays(initialise):
    state = torch.get_rng_state()

    a, b, c = (initialise(copy.deepcopy(NET), generator=seeded(s)) for s in (0, 0, 1))

    assert torch.equal(torch.get_rng_state(), state)
    assert same(a, b)
    assert not same(a, c)


NET = Net()


def test_without_a_generator_it_uses_pytorchs_own(initialise):
    a = copy.deepcopy(NET)
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(5)
        initialise(a)
    b = initialise(copy.deepcopy(NET), generator=seeded(5))

    assert same(a, b)


def test_meta_is_left_alone_and_works_after_to_empty(initialise):
    with torch.device("meta"):
        net = Net()

    initialise(net, generator=seeded())

    assert all(p.is_meta for p in net.parameters())
    net.to_empty(device="cpu")
    nn.init.ones_(net.scale)
    net.norm.reset_parameters()
    assert same(initialise(net, generator=seeded()), initialise(Net(), generator=seeded()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(initialise, dtype):
    net = Net(dtype)
    if initialise is EVERY["lsuv_"]:
        init.lsuv_(net, X.to(dtype), generator=seeded())
    else:
        initialise(net, generator=seeded())

    wide = initialise(Net(), generator=seeded())

    assert all(p.isfinite().all() and p.dtype == dtype for p in net.parameters())
    for narrow, reference in zip(net.parameters(), wide.parameters(), strict=True):
        if dtype != torch.float64:  # draws other numbers
            torch.testing.assert_close(narrow.float(), reference, rtol=0.05, atol=1e-2)


def test_lazy_layers_are_refused_before_anything_changes(initialise):
    net = Net()
    net.late = nn.LazyLinear(3)
    before = net.q_proj.weight.clone()

    with pytest.raises(ConfigError, match="no shape yet"):
        initialise(net)

    assert torch.equal(net.q_proj.weight, before)


def test_a_module_without_layers(initialise):
    with pytest.raises(ConfigError, match="has no weight to initialise"):
        initialise(nn.Sequential(nn.ReLU(), nn.LayerNorm(3)))


def test_frozen_and_parametrised_layers_stay(initialise):
    net = Net()
    net.q_proj.requires_grad_(False)
    net.extra = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    before = copy.deepcopy(net)

    initialise(net, generator=seeded())

    assert same(net.q_proj, before.q_proj)
    assert same(net.extra, before.extra)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_layers(initialise_any, shape):
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(torch.empty(shape))
    layer.bias = nn.Parameter(torch.ones(shape[0]))

    initialise_any(layer)

    assert (layer.bias == 0).all()


def test_tied_weights_are_drawn_once(initialise_any):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight

    initialise_any(net, generator=seeded())
    single = initialise_any(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), generator=seeded())

    ratio = net[1].weight / single[0].weight  # their scales may differ, for `auto_`
    assert ratio.detach().std().item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "argument"),
    [("gpt2_", "std"), ("orthogonal_", "gain"), ("trunc_normal_", "std"), ("xavier_", "gain")],
)
def test_scales_out_of_range(name, argument, value):
    net = Net()
    before = copy.deepcopy(net)

    with pytest.raises(ConfigError, match=f"{argument} must be finite and positive, got {value}"):
        getattr(init, name)(net, **{argument: value})

    assert same(net, before)
