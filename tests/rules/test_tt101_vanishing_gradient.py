import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt101_vanishing_gradient import VanishingGradient

RULE = VanishingGradient()


def stack(depth, activation=nn.Sigmoid, width=16):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def profile(make_history, gradients, steps=60, activation=nn.Sigmoid):
    """A run whose weight matrices have these gradients, from the first layer on."""
    model = stack(len(gradients) - 1, activation)
    names = [f"{2 * i}.weight" for i in range(len(gradients))]
    return make_history(
        steps,
        parameters={"gradient.rms": dict(zip(names, gradients, strict=True))},
        model=model,
        order=[str(i) for i in range(len(model))],
    )


def test_names_gradients_that_fall_layer_by_layer(make_history):
    history = profile(make_history, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])

    assert list(RULE.check(history)) == [
        Finding(
            code="TT101",
            name="vanishing-gradient",
            severity=Severity.WARNING,
            symptom=Symptom.VANISHING_GRADIENT,
            site="0.weight",
            step=1,
            what="the gradients of the first layers are 6e-05 of those of the last "
            "ones, and fall from layer to layer over 6 weight matrices",
            evidence=(
                Evidence(
                    name="gradient of the first layers over the last ones",
                    value=5.5e-05,
                    normal=">= 0.003",
                ),
            ),
            cause="the slope of Sigmoid is below 1 nearly everywhere (a sigmoid's is "
            "0.25 at most), and each layer multiplies the gradient by it, so the "
            "first layers hardly learn",
            fix="use ReLU or GELU as activation, initialise with "
            "trimtab.init.auto_(model), and add residual connections or norm "
            "layers",
            remedy=Fix(action="replace_activation", args={"kind": "Sigmoid", "by": "ReLU"}),
        )
    ]


def test_blames_the_initial_weights_without_bounded_activations(make_history):
    history = profile(make_history, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1], activation=nn.ReLU)

    (finding,) = RULE.check(history)

    assert "initial weights are too small" in finding.cause
    assert finding.remedy == Fix(action="reinitialise", args={"scheme": "auto"})


@pytest.mark.parametrize(
    "gradients",
    [
        [2e-3, 4e-3, 1e-2, 2e-2, 5e-2, 1e-1],  # a mild fall
        [1e-2, 1e-6, 1e-6, 1e-6, 1e-6, 1e-2],  # branches that start near zero
        [1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-2],  # the same in front of a head
        [1e-12, 2e-12, 1e-12, 2e-12, 1e-12, 1e-12],  # converged
        [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6],  # the other way round
    ],
)
def test_is_silent_on_other_profiles(make_history, gradients):
    assert list(RULE.check(profile(make_history, gradients))) == []


def test_is_silent_on_a_phase_that_passes(make_history):
    fallen, sound = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1], [0.01] * 6
    gradients = [[a] * 3 + [b] * 4 for a, b in zip(fallen, sound, strict=True)]

    assert list(RULE.check(profile(make_history, gradients))) == []


def test_knows_nothing_of_a_run_without_setup(make_history):
    history = make_history(60, parameters={"gradient.rms": {"0.weight": 1e-9, "1.weight": 1.0}})

    assert list(RULE.check(history)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "expected"), [(nn.Sigmoid, ["TT101"]), (nn.ReLU, [])])
def test_tells_eight_sigmoids_from_eight_relus(train, activation, expected):
    model = stack(8, activation)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def loss_of(step):
        x = torch.randn(32, 16)
        return nn.functional.cross_entropy(model(x), x[:, :10].argmax(1))

    assert [f.code for f in train(model, optimizer, loss_of, RULE, steps=90)] == expected
