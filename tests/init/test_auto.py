import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import trimtab
from trimtab.errors import StabilityWarning
from trimtab.init import auto_, plan


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = functional.dropout(functional.relu(self.fc1(x)), 0.1, self.training)
        return self.fc3(torch.tanh(self.fc2(x).view(-1, 16)))


class ResBlock(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        x += identity
        return self.relu(x)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(ResBlock(), ResBlock())
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1)
        return self.fc(torch.flatten(x, 1))


class PreNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(x + self.down(functional.gelu(self.up(self.norm(x)))))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.shared(torch.relu(self.shared(x)))))


class Recurrent(nn.Module):
    """A tanh network with a state, whose last layer reads the state."""

    def __init__(self):
        super().__init__()
        self.i2h, self.h2h, self.h2o = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x, h):
        h = torch.tanh(self.i2h(x) + self.h2h(h))
        return self.h2o(h), h


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(x.relu() if x.mean() < 9 else x.tanh())


def follows(model, *args):
    return {c.name: c.follows for c in plan(model, *args)}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Functional, {"fc1": "relu", "fc2": "tanh", "fc3": "output"}),
        (
            ResNet,
            {"stem.0": "relu", "blocks.0.conv1": "relu", "blocks.0.conv2": "relu",
             "blocks.1.conv1": "relu", "blocks.1.conv2": "relu", "fc": "output"},
        ),
        (ResBlock, {"conv1": "relu", "conv2": "relu"}),
        (PreNorm, {"up": "gelu", "down": "linear", "head": "output"}),
        (Recurrent, {"i2h": "tanh", "h2h": "tanh", "h2o": "output"}),
        (
            lambda: trimtab.nn.SwiGLU(8),
            {"gate_proj": "silu", "up_proj": "linear", "down_proj": "output"},
        ),
        (
            lambda: nn.TransformerEncoderLayer(8, 2, 16),
            {"self_attn.in_proj_weight.query": "linear", "self_attn.in_proj_weight.key": "linear",
             "self_attn.in_proj_weight.value": "linear", "self_attn.out_proj": "linear",
             "linear1": "relu", "linear2": "linear"},
        ),
    ],
    ids=["functional", "resnet", "block", "pre-norm", "recurrent", "swiglu", "transformer"],
)  # fmt: skip
def test_sees_what_really_follows(make, expected):
    assert follows(make()) == {name: (end,) for name, end in expected.items()}

    with torch.device("meta"):
        assert follows(make()) == {name: (end,) for name, end in expected.items()}


def test_a_model_of_trimtab_needs_no_batch():
    model = trimtab.nn.GPT(7, dim=8, depth=2, num_heads=2, tie_embeddings=False)

    found = follows(auto_(model))

    assert found["blocks.1.feed_forward.branch.gate_proj"] == ("silu",)
    assert found["blocks.1.attention.branch.out_proj"] == ("linear",)
    assert found["head.proj"] == ("output",)


def test_a_module_used_twice_gets_the_smaller_gain():
    found = {c.name: c for c in plan(Twice())}

    assert found["shared"].follows == ("relu", "tanh")
    assert found["shared"].gain == 1


def test_a_model_that_decides_by_values_needs_a_batch(generator):
    with pytest.warns(StabilityWarning, match=r"'fc1', 'fc2', and treats .* Pass a batch"):
        auto_(Branching(), generator=generator)

    net = auto_(Branching(), torch.randn(4, 8, generator=generator), generator=generator)
    assert follows(net, torch.ones(1, 8)) == {"fc1": ("relu",), "fc2": ("output",)}


def test_the_warning_points_at_the_caller():
    with pytest.warns(StabilityWarning) as caught:
        auto_(Branching())

    assert caught[0].filename == __file__


def test_weights_have_the_planned_size(generator, measured):
    net = nn.Sequential(
        nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 300),
        nn.SELU(), nn.Linear(300, 300), nn.Linear(300, 100),
    )  # fmt: skip

    auto_(net, generator=generator)

    expected = {0: 2 / 200, 2: 2 / 600, 4: 1 / 300, 6: 1 / 300, 7: 1 / 300**2}
    for index, variance in expected.items():
        assert measured(net[index].weight) == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("num_classes", [10, 1000])
def test_the_first_loss_is_that_of_guessing(num_classes, generator):
    layers = (m for _ in range(20) for m in (nn.Linear(128, 128), nn.ReLU()))
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), *layers, nn.Linear(128, num_classes))
    x = torch.randn(256, 64, generator=generator)
    y = torch.randint(num_classes, (256,), generator=generator)

    def first_loss(**options):
        return functional.cross_entropy(auto_(net, generator=generator, **options)(x), y).item()

    assert first_loss() == pytest.approx(math.log(num_classes), abs=0.05)
    assert trimtab.init.he_(net, generator=generator)(x).std() > 0.5  # loud: confident and wrong


@pytest.mark.parametrize(
    ("act", "depth", "norm"),
    [
        (nn.ReLU, 100, nn.Identity), (nn.LeakyReLU, 100, nn.Identity), (nn.ELU, 100, nn.Identity),
        (nn.SELU, 100, nn.Identity), (nn.GELU, 10, nn.Identity), (nn.SiLU, 10, nn.Identity),
        (nn.GELU, 100, nn.LayerNorm), (nn.SiLU, 100, nn.LayerNorm),
    ],
)  # fmt: skip
def test_signal_through_many_layers(act, depth, norm, generator):
    layers = [m for _ in range(depth) for m in (nn.Linear(256, 256), norm(256), act())]
    net = nn.Sequential(*layers)
    sizes = []
    for _ in range(3):
        x = torch.randn(16, 256, generator=generator)
        y = auto_(net, generator=generator)(x)
        sizes.append(y.square().mean().sqrt().log().item())

    assert abs(sum(sizes) / len(sizes)) < math.log(2)


def test_the_run_leaves_state_alone(generator):
    net = nn.Sequential(Branching(), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    before = copy.deepcopy(net[1])
    state = torch.get_rng_state()

    auto_(net, torch.randn(4, 8, generator=generator), generator=generator)

    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net[1].running_mean, before.running_mean)
    assert torch.equal(net[1].num_batches_tracked, before.num_batches_tracked)
