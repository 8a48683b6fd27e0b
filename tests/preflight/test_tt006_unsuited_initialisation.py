"""First weights through which nothing comes."""

import torch
from torch import nn

import trimtab
from trimtab.preflight.tt006_unsuited_initialisation import UnsuitedInitialisation


def net(*, act=nn.ReLU, std=None, depth=2, width=16):
    layers = [m for i in range(depth) for m in (nn.Linear(width if i else 8, width), act())]
    model = nn.Sequential(*layers, nn.Linear(width, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_where_the_signal_vanishes_forwards(judge, shown, classes):
    model = net(act=nn.Sigmoid, depth=10)

    (finding,) = judge(
        UnsuitedInitialisation(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, vanishing_gradient: TT006 unsuited-initialisation at 4: the signal "
            "vanishes from initialisation on: of its variation from example to example, "
            "4e-08 is left before the last of 11 layers"
        ),
        "signal left 4.5e-08, normal >= 0.001",
        (
            "The initial weights do not suit the activations. Those of 4 have a standard "
            "deviation of 0.15; Xavier initialisation for the sigmoid that follows has "
            "0.25."
        ),
        (
            "initialise with trimtab.init.auto_(model), which chooses He, Xavier or "
            "orthogonal by the activation that follows; for a deep stack add norms and "
            "residual connections"
        ),
    ]


def test_fires_where_the_gradient_vanishes(judge, shown, classes):
    model = net(act=nn.Sigmoid, depth=4)

    (finding,) = judge(
        UnsuitedInitialisation(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, vanishing_gradient: TT006 unsuited-initialisation at 4: the signal "
            "vanishes from initialisation on: of its variation from example to example, "
            "0.0009 is left before the last of 5 layers"
        ),
        "signal left 0.000895, normal >= 0.001",
        (
            "The initial weights do not suit the activations. Those of 4 have a standard "
            "deviation of 0.15; Xavier initialisation for the sigmoid that follows has "
            "0.25."
        ),
        (
            "initialise with trimtab.init.auto_(model), which chooses He, Xavier or "
            "orthogonal by the activation that follows; for a deep stack add norms and "
            "residual connections"
        ),
    ]


def test_fires_where_weights_are_too_large(judge, shown, classes):
    model = net(std=1.0, depth=6, width=128)

    (finding,) = judge(
        UnsuitedInitialisation(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, exploding_gradient: TT006 unsuited-initialisation at 2: the signal "
            "explodes from initialisation on: it is multiplied by 12 in one layer, and "
            "alike in 6 of 7 layers"
        ),
        "gain of the layer 11.5, normal 0.4 to 4",
        (
            "The initial weights do not suit the activations. Those of 2 have a standard "
            "deviation of 1; He initialisation for the relu that follows has 0.12."
        ),
        (
            "initialise with trimtab.init.auto_(model), which chooses He, Xavier or "
            "orthogonal by the activation that follows; for a deep stack add norms and "
            "residual connections"
        ),
    ]


def test_fires_on_saturated_units(judge, shown, classes):
    model = net(act=nn.Tanh, std=1.0, depth=4, width=64)

    (finding,) = judge(
        UnsuitedInitialisation(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, saturated_units: TT006 unsuited-initialisation at 0: the signal "
            "saturates from initialisation on: 57% of the outputs of the Tanh that "
            "follows lie in its flat ends"
        ),
        "saturated share 0.574, normal <= 0.5",
        (
            "The initial weights do not suit the activations. Those of 0 have a standard "
            "deviation of 1.1; Xavier initialisation for the tanh that follows has 0.17."
        ),
        (
            "initialise with trimtab.init.auto_(model), which chooses He, Xavier or "
            "orthogonal by the activation that follows; for a deep stack add norms and "
            "residual connections"
        ),
    ]


def test_fires_on_dead_units(judge, shown, classes):
    model = net()
    nn.init.constant_(model[2].bias, -50)

    (finding,) = judge(
        UnsuitedInitialisation(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, dead_units: TT006 unsuited-initialisation at 2: the signal is cut "
            "off from initialisation on: 100% of the units of the ReLU that follows are "
            "dead, zero on every example"
        ),
        "dead share 1, normal <= 0.9",
        (
            "The initial weights do not suit the activations. Those of 2 have a standard "
            "deviation of 0.14; He initialisation for the relu that follows has 0.35."
        ),
        (
            "initialise with trimtab.init.auto_(model), which chooses He, Xavier or "
            "orthogonal by the activation that follows; for a deep stack add norms and "
            "residual connections"
        ),
    ]


def test_fires_on_constant_weights(judge, shown, classes):
    model = net()
    nn.init.constant_(model[2].weight, 0.1)

    (finding,) = judge(
        UnsuitedInitialisation(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, no_learning: TT006 unsuited-initialisation at 2: the signal is the "
            "same in every unit from initialisation on: all 256 weights of this layer are"
            " 0.1"
        ),
        "deviation of the weights 0, normal > 0",
        (
            "The initial weights do not suit the activations. Those of 2 have a standard "
            "deviation of 1.5e-08; He initialisation for the relu that follows has 0.35."
        ),
        (
            "initialise with trimtab.init.auto_(model), which chooses He, Xavier or "
            "orthogonal by the activation that follows; for a deep stack add norms and "
            "residual connections"
        ),
    ]


def test_fires_on_twenty_plain_layers_by_default(judge, shown, classes):
    model = net(depth=20)

    (finding,) = judge(
        UnsuitedInitialisation(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, vanishing_gradient: TT006 unsuited-initialisation at 8: the signal "
            "vanishes from initialisation on: of its variation from example to example, "
            "3e-08 is left before the last of 21 layers"
        ),
        "signal left 3.48e-08, normal >= 0.001",
        (
            "The initial weights do not suit the activations. Those of 8 have a standard "
            "deviation of 0.15; He initialisation for the relu that follows has 0.35."
        ),
        (
            "initialise with trimtab.init.auto_(model), which chooses He, Xavier or "
            "orthogonal by the activation that follows; for a deep stack add norms and "
            "residual connections"
        ),
    ]


def test_is_silent_on_six_plain_layers_by_default(judge, classes):
    model = net(depth=6, width=64)

    assert (
        judge(
            UnsuitedInitialisation(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_deep_weights_of_the_right_size(judge, classes):
    model = trimtab.init.auto_(net(depth=30, width=64))

    assert (
        judge(
            UnsuitedInitialisation(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_norms_that_hold_the_signal(judge, classes):
    layers = [m for _ in range(20) for m in (nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(8, 3))
    for layer in model[::3]:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)

    assert (
        judge(
            UnsuitedInitialisation(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_a_head_that_starts_at_zero(judge, classes):
    model = net()
    nn.init.zeros_(model[4].weight)

    assert (
        judge(
            UnsuitedInitialisation(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_one_example(judge, classes):
    model, (x, y) = net(depth=8), classes

    assert (
        judge(
            UnsuitedInitialisation(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x[:1], y[:1]),
        )
        == []
    )
