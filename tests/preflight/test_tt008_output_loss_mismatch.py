"""Outputs that the loss is not made for."""

import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight.tt008_output_loss_mismatch import OutputLossMismatch


def ending(last, outputs=3):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, outputs), last)


def test_fires_on_softmax_before_cross_entropy(judge, shown, classes):
    model = ending(nn.Softmax(1))

    (finding,) = judge(
        OutputLossMismatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: the output has passed a"
            " softmax already: every row sums to 1"
        ),
        "last operation softmax, normal logits",
        (
            "Cross-entropy applies log-softmax itself, so softmax acts twice: gradients "
            "shrink and the loss cannot fall below about 0.55."
        ),
        ("return the logits: remove the softmax from the model and apply it for predictions only"),
    ]


def test_fires_on_a_hand_written_softmax(judge, shown, classes):
    model = ending(nn.Identity())

    (finding,) = judge(
        OutputLossMismatch(),
        model,
        torch.optim.Adam(model.parameters()),
        lambda o, y: functional.cross_entropy(o.exp() / o.exp().sum(1, True), y),
        classes,
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: the output has passed a"
            " softmax already: every row sums to 1"
        ),
        "last operation softmax, normal logits",
        (
            "Cross-entropy applies log-softmax itself, so softmax acts twice: gradients "
            "shrink and the loss cannot fall below about 0.55."
        ),
        ("return the logits: remove the softmax from the model and apply it for predictions only"),
    ]


def test_fires_on_relu_before_cross_entropy(judge, shown, classes):
    model = ending(nn.ReLU())

    (finding,) = judge(
        OutputLossMismatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT008 output-loss-mismatch: the output has passed"
            " a relu before cross-entropy"
        ),
        "last operation relu, normal logits",
        (
            "Cross-entropy expects logits of any sign; a relu on the output bounds them "
            "and cuts gradients off."
        ),
        "return the logits: remove the relu after the last layer",
    ]


def test_fires_on_a_single_class(judge, shown, classes):
    model, (x, y) = ending(nn.Identity(), 1), classes

    (finding,) = judge(
        OutputLossMismatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x, 0 * y),
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: cross-entropy is given "
            "a single class, so the loss is 0 whatever the model says"
        ),
        "classes 1, normal >= 2",
        "Softmax over one number is always 1.",
        "use BCEWithLogitsLoss with float targets for one output, or two outputs",
    ]


def test_fires_on_sigmoid_before_logits_loss(judge, shown, classes):
    model, (x, y) = ending(nn.Sigmoid()), classes

    (finding,) = judge(
        OutputLossMismatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.BCEWithLogitsLoss(),
        (x, functional.one_hot(y, 3).float()),
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: the output has passed a"
            " sigmoid before binary cross-entropy with logits"
        ),
        "last operation sigmoid, normal logits",
        (
            "BCEWithLogitsLoss applies the sigmoid itself, so after a sigmoid the "
            "prediction stays between 0.5 and 0.73 and the loss cannot come near zero."
        ),
        "return the logits: remove the sigmoid, or use BCELoss",
    ]


def test_fires_on_logits_in_bce(judge, shown, classes):
    model, (x, y) = ending(nn.Identity()), classes

    (finding,) = judge(
        OutputLossMismatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.BCELoss(),
        (x, functional.one_hot(y, 3).float()),
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: binary cross-entropy is"
            " given values from -0.802 to 0.589"
        ),
        "range of the output -0.802 to 0.589, normal 0 to 1",
        ("BCELoss expects probabilities, but the output is raw logits: there is no sigmoid."),
        "use BCEWithLogitsLoss, which applies the sigmoid itself and is stable",
    ]


def test_fires_on_logits_in_nll(judge, shown, classes):
    model = ending(nn.Identity())

    (finding,) = judge(
        OutputLossMismatch(), model, torch.optim.Adam(model.parameters()), nn.NLLLoss(), classes
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: negative log-likelihood"
            " is given raw logits, up to 0.589"
        ),
        "largest output 0.589, normal <= 0 (log-probabilities)",
        ("NLLLoss expects log-probabilities; on raw logits it has no lower bound, or no meaning."),
        "return logits and use CrossEntropyLoss, or end the model in log_softmax",
    ]


def test_fires_on_probabilities_in_nll(judge, shown, classes):
    model = ending(nn.Softmax(1))

    (finding,) = judge(
        OutputLossMismatch(), model, torch.optim.Adam(model.parameters()), nn.NLLLoss(), classes
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: negative log-likelihood"
            " is given probabilities, up to 0.551"
        ),
        "largest output 0.551, normal <= 0 (log-probabilities)",
        (
            "NLLLoss expects log-probabilities; on probabilities it has no lower bound, "
            "or no meaning."
        ),
        "return logits and use CrossEntropyLoss, or end the model in log_softmax",
    ]


def test_fires_on_log_softmax_over_the_batch(judge, shown, classes):
    model = ending(nn.LogSoftmax(0))

    (finding,) = judge(
        OutputLossMismatch(), model, torch.optim.Adam(model.parameters()), nn.NLLLoss(), classes
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: log_softmax was taken "
            "over the batch (dim=0), not over the classes (dim=1)"
        ),
        "dim of log_softmax 0, normal 1",
        "Examples of the batch compete with each other instead of the classes.",
        "pass dim=-1 to log_softmax, or return logits and use CrossEntropyLoss",
    ]


def test_fires_on_a_regression_that_ends_in_relu(judge, shown, classes):
    model, (x, _y) = ending(nn.ReLU()), classes

    (finding,) = judge(
        OutputLossMismatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.MSELoss(),
        (x, x[:, :3]),
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: the output ends in relu"
            " and reaches 0 and more, but 56% of the targets lie outside"
        ),
        "targets out of reach 0.562, normal <= 0.05",
        (
            "The last activation (relu) bounds the output, so the model can never predict"
            " these targets."
        ),
        (
            "leave out the activation after the last layer of a regression, or scale the "
            "targets into its range"
        ),
    ]


def test_fires_on_a_regression_that_ends_in_tanh(judge, shown, classes):
    model, (x, _y) = ending(nn.Tanh()), classes

    (finding,) = judge(
        OutputLossMismatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.L1Loss(),
        (x, x[:, :3]),
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT008 output-loss-mismatch: the output ends in tanh"
            " and reaches -1 to 1, but 27% of the targets lie outside"
        ),
        "targets out of reach 0.271, normal <= 0.05",
        (
            "The last activation (tanh) bounds the output, so the model can never predict"
            " these targets."
        ),
        (
            "leave out the activation after the last layer of a regression, or scale the "
            "targets into its range"
        ),
    ]


def test_is_silent_on_logits(judge, classes):
    model = ending(nn.Identity())

    assert (
        judge(
            OutputLossMismatch(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_log_softmax_before_cross_entropy(judge, classes):
    model = ending(nn.LogSoftmax(1))

    assert (
        judge(
            OutputLossMismatch(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_log_softmax_and_nll(judge, classes):
    model = ending(nn.LogSoftmax(-1))

    assert (
        judge(
            OutputLossMismatch(), model, torch.optim.Adam(model.parameters()), nn.NLLLoss(), classes
        )
        == []
    )


def test_is_silent_on_sigmoid_and_bce(judge, classes):
    model, (x, y) = ending(nn.Sigmoid()), classes

    assert (
        judge(
            OutputLossMismatch(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.BCELoss(),
            (x, functional.one_hot(y, 3).float()),
        )
        == []
    )


def test_is_silent_on_targets_within_reach(judge, classes):
    model, (x, _y) = ending(nn.Sigmoid()), classes

    assert (
        judge(
            OutputLossMismatch(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.MSELoss(),
            (x, x[:, :3].sigmoid()),
        )
        == []
    )


def test_fires_on_relu_before_logits_loss(judge, shown, classes):
    model, (x, y) = ending(nn.ReLU()), classes

    (finding,) = judge(
        OutputLossMismatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.BCEWithLogitsLoss(),
        (x, functional.one_hot(y, 3).float()),
    )

    assert shown(finding) == [
        "warning, slow_convergence: TT008 output-loss-mismatch: the output has passed a relu "
        "before binary cross-entropy with logits",
        "last operation relu, normal logits",
        "A logit below 0 says no. After a relu the prediction is never below 0.5, and where it is "
        "0.5 no gradient comes back.",
        "return the logits: remove the relu after the last layer",
    ]
