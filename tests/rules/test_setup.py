import json

import pytest
import torch
from torch import nn

from trimtab.rules import Setup, describe_setup
from trimtab.rules._setup import module_role


@pytest.fixture
def model():
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(7, 4),
            "body": nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.ReLU()),
            "head": nn.Linear(8, 2),
        }
    )


def adamw(model):
    groups = [
        {"params": model["body"].parameters(), "weight_decay": 0.1},
        {"params": model["head"].parameters(), "weight_decay": 0.0, "lr": 1e-4},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-6)


def test_parameters_have_role_owner_and_group(model):
    setup = describe_setup(model, [adamw(model)])

    roles = {p.name: (p.role, p.module, p.group) for p in setup.params}

    assert roles == {
        "embed.weight": ("embedding", "embed", None),
        "body.0.weight": ("weight", "body.0", 0),
        "body.0.bias": ("bias", "body.0", 0),
        "body.1.weight": ("norm", "body.1", 0),
        "body.1.bias": ("norm", "body.1", 0),
        "head.weight": ("weight", "head", 1),
        "head.bias": ("bias", "head", 1),
    }
    assert setup.param("head.weight").numel == 16
    assert setup.param("nothing") is None


def test_groups_have_their_settings(model):
    setup = describe_setup(model, [adamw(model)])

    group = setup.group_of("head.weight")

    assert (group.optimizer, group.lr, group.weight_decay) == ("AdamW", 1e-4, 0.0)
    assert (group.beta1, group.beta2, group.eps, group.adaptive) == (0.9, 0.95, 1e-6, True)
    assert setup.group_of("embed.weight") is None


def test_sgd_is_not_adaptive(model):
    group = describe_setup(model, [torch.optim.SGD(model.parameters(), momentum=0.9)]).groups[0]

    assert (group.adaptive, group.momentum, group.beta1, group.eps) == (False, 0.9, None, None)


def test_parameters_of_others_are_counted(model):
    stranger = nn.Linear(2, 2)
    optimizers = [torch.optim.SGD([*model.parameters(), *stranger.parameters()], lr=0.1)]

    assert describe_setup(model, optimizers).num_foreign == 2


def test_frozen_parameters_are_known(model):
    model["embed"].requires_grad_(False)

    setup = describe_setup(model, [adamw(model)])

    assert not setup.param("embed.weight").trainable


@pytest.mark.parametrize(
    ("module", "role"),
    [
        (nn.Conv2d(1, 1, 1), "linear"),
        (nn.BatchNorm2d(1), "norm"),
        (nn.RMSNorm(2), "norm"),
        (nn.ReLU6(), "relu"),
        (nn.Sigmoid(), "bounded"),
        (nn.GELU(), "activation"),
        (nn.LSTM(2, 2), "recurrent"),
        (nn.MultiheadAttention(2, 1), "attention"),
        (nn.EmbeddingBag(2, 2), "embedding"),
        (nn.Sequential(nn.ReLU()), "container"),
        (nn.Dropout(), "other"),
    ],
)
def test_modules_have_a_role(module, role):
    assert module_role(module) == role


def test_survives_json(model):
    setup = describe_setup(model, [adamw(model)], num_ranks=2)

    data = setup.to_dict()

    assert json.loads(json.dumps(data)) == data
    assert Setup.from_dict(data) == setup
