import torch
from torch import nn

from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order


def once(setup, action, **args):
    return [e.diff for e in apply(setup, [Order(action=action, args=args)])]


def deep(*, end=None, activation=nn.Sigmoid):
    layers = [nn.Linear(4, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 1)]
    return nn.Sequential(*layers, *([end] if end else []))


def test_fresh_weights(make_setup):
    setup = make_setup()
    nn.init.constant_(setup.model[0].weight, 0.0)
    assert once(setup, "reinitialise") == [
        "initial weights: as built -> drawn by trimtab.init.auto_"
    ]
    assert float(setup.model[0].weight.detach().std()) > 0.1


def test_small_head(make_setup):
    setup = make_setup()
    nn.init.normal_(setup.model[2].weight, std=10.0)
    (diff,) = once(setup, "shrink_head")
    assert diff.startswith("standard deviation of the weights of 2: ")
    assert diff.endswith(" -> 0.0625")
    assert float(setup.model[2].weight.detach().std()) < 0.15
    assert not setup.model[2].bias.any()


def test_activations_of_one_kind_are_replaced_but_not_the_last(make_setup):
    setup = make_setup(model=lambda: deep(end=nn.Sigmoid()))
    assert once(setup, "replace_activation", kind="Sigmoid", by="ReLU") == [
        "activation of 2 layers: Sigmoid -> ReLU"
    ]
    kinds = [type(m).__name__ for m in setup.model]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear", "Sigmoid"]
    assert once(setup, "replace_activation", kind="Tanh") == []


def test_a_site_stands_for_its_kind(make_setup):
    setup = make_setup(model=lambda: deep(activation=nn.ReLU))
    assert once(setup, "replace_activation", site="3", by="GELU") == [
        "activation of 2 layers: ReLU -> GELU"
    ]


def test_norms_before_activations_are_trained(make_setup):
    setup = make_setup(model=lambda: deep(activation=nn.Tanh))
    assert once(setup, "insert_norms") == [
        "normalisation layers: none -> 2, one before each activation"
    ]
    assert [type(m).__name__ for m in setup.model][:3] == ["Linear", "LayerNorm", "Tanh"]
    assert setup.model(torch.ones(3, 4)).shape == (3, 1)
    held = {id(p) for g in setup.optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in setup.model.parameters()}
    assert once(setup, "insert_norms") == []


def test_norms_after_convolutions(make_setup):
    def model():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))

    setup = make_setup(model=model)
    once(setup, "insert_norms")
    assert isinstance(setup.model[1], nn.GroupNorm)
    assert setup.model(torch.ones(2, 1, 4, 4)).shape == (2, 2)


def test_batchnorm_momentum(make_setup):
    setup = make_setup(model=lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, momentum=0)))
    assert once(setup, "set_batchnorm_momentum") == ["momentum of BatchNorm: 0 -> 0.1"]
    assert setup.model[1].momentum == 0.1
    assert once(setup, "set_batchnorm_momentum") == []


def test_training_mode(make_setup):
    setup = make_setup()
    assert once(setup, "train_mode") == []
    setup.model.eval()
    assert once(setup, "train_mode") == ["mode of the model: eval() -> train()"]
    assert setup.model.training


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
        self.stages = {"deep": nn.Linear(4, 4)}
        self.sizes = [1, 2]
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.stages["deep"](x))


def test_hidden_layers_are_registered_and_trained(make_setup):
    setup = make_setup(model=Hidden)
    x = torch.ones(2, 4)
    before = setup.model(x)

    assert once(setup, "register_modules") == [
        "layers in a plain list or dict of layers, stages: 6 parameters that neither model nor "
        "optimizer knew -> nn.ModuleList or nn.ModuleDict"
    ]

    assert len(list(setup.model.parameters())) == 8
    assert len(setup.optimizer.param_groups[0]["params"]) == 8
    assert torch.equal(setup.model(x), before)
    assert setup.model.sizes == [1, 2]


def test_fresh_weights_of_a_recurrent_net_carry_its_state(make_setup):
    sequences = [(torch.randn(4, 9, 2), torch.randn(4, 9, 8))]
    setup = make_setup(model=lambda: nn.LSTM(2, 8, batch_first=True), batches=sequences)
    edits = apply(setup, [Order(action="reinitialise")], sequences)
    assert [e.what for e in edits] == ["weights of recurrent layers", "initial weights"]
    assert edits[0].after.endswith("gates that keep a state for up to 9 steps")
    assert setup.model.bias_ih_l0.detach()[8:16].max() > 0.5
