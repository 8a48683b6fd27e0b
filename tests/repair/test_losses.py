import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order


def once(setup, action, pairs, **args):
    return [e.diff for e in apply(setup, [Order(action=action, args=args)], pairs)]


def net(outputs, end=None):
    return lambda: nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs), *([end] if end else [])
    )


def test_softmax_before_cross_entropy_is_taken_off(make_setup, task):
    setup = make_setup(model=net(3, nn.Softmax(dim=1)), loss_fn=nn.CrossEntropyLoss())
    assert once(setup, "fit_output", task.classes) == [
        "the model's last activation: Softmax -> nothing: the loss takes logits"
    ]
    assert isinstance(setup.model[3], nn.Identity)


class Probabilities(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return functional.softmax(self.head(x), dim=-1)


def test_softmax_in_the_code_changes_the_loss(make_setup, task):
    setup = make_setup(model=Probabilities, loss_fn=nn.CrossEntropyLoss())
    assert once(setup, "fit_output", task.classes) == [
        "loss: CrossEntropyLoss -> cross-entropy of probabilities: nll_loss(log(p), y)"
    ]
    x, y = task.classes[0]
    expected = functional.cross_entropy(setup.model.head(x).double(), y)
    assert setup.loss_fn(setup.model(x), y).item() == pytest.approx(expected.item(), rel=1e-5)


def test_softmax_over_the_batch_is_turned(make_setup, task):
    setup = make_setup(model=net(3, nn.LogSoftmax(dim=0)), loss_fn=nn.NLLLoss())
    assert once(setup, "fit_output", task.classes) == [
        "the model's last activation: LogSoftmax(dim=0) -> dim=-1"
    ]
    total = setup.model(task.x[0]).exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(16))


def test_softmax_over_one_output_becomes_a_sigmoid(make_setup, task):
    pairs = [(x, (y > 0).float()) for x, y in task.pairs]
    setup = make_setup(model=net(1, nn.Softmax(dim=1)), loss_fn=nn.BCELoss())
    assert once(setup, "fit_output", pairs) == [
        "the model's last activation: Softmax over one output -> Sigmoid"
    ]


def test_logits_in_a_loss_of_probabilities(make_setup, task):
    setup = make_setup(model=net(3), loss_fn=nn.NLLLoss())
    assert once(setup, "fit_output", task.classes) == ["loss: NLLLoss -> cross-entropy of logits"]
    x, y = task.classes[0]
    out = setup.model(x)
    assert torch.equal(setup.loss_fn(out, y), functional.cross_entropy(out, y))


def test_sigmoid_before_logits_loss(make_setup, task):
    pairs = [(x, (y > 0).float()) for x, y in task.pairs]
    setup = make_setup(model=net(1, nn.Sigmoid()), loss_fn=nn.BCEWithLogitsLoss())
    once(setup, "fit_output", pairs)
    assert isinstance(setup.model[3], nn.Identity)


def test_bounded_regression_output_is_freed(make_setup, task):
    setup = make_setup(model=net(1, nn.ReLU()))
    assert once(setup, "fit_output", task.pairs) == [
        "the model's last activation: ReLU -> nothing: outputs of any value"
    ]


class Bounded(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(x).sigmoid()


def test_bounded_output_of_the_code_is_stretched_over_the_targets(make_setup, task):
    pairs = [(x, 10 * y - 5) for x, y in task.pairs]
    low, high = min(float(y.min()) for _, y in pairs), max(float(y.max()) for _, y in pairs)
    setup = make_setup(model=Bounded)
    assert once(setup, "fit_output", pairs) == [
        f"range of the output: 0 to 1 -> {low:.3g} to {high:.3g}"
    ]
    nn.init.constant_(setup.model.head.bias, 100.0)
    assert setup.model(task.x[0]).max().item() == pytest.approx(high + 0.05 * (high - low))


def usual(make_setup, outputs, pairs, loss_fn):
    setup = make_setup(model=net(outputs), loss_fn=loss_fn)
    return setup, once(setup, "usual_loss", pairs)


def test_usual_losses(make_setup, task):
    def broken(output, target):
        return output.round().mean()

    x, y = task.pairs[0]
    setup, diff = usual(make_setup, 1, task.pairs, broken)
    assert diff == ["loss: broken -> mean squared error"]
    assert torch.equal(setup.loss_fn(setup.model(x), y), functional.mse_loss(setup.model(x), y))

    _, diff = usual(make_setup, 3, task.classes, broken)
    assert diff == ["loss: broken -> cross-entropy of logits"]

    binary = [(x, (y > 0).float()) for x, y in task.pairs]
    _, diff = usual(make_setup, 1, binary, broken)
    assert diff == ["loss: broken -> binary cross-entropy with logits"]

    assert usual(make_setup, 2, task.pairs, broken)[1] == []
    assert usual(make_setup, 1, task.pairs, nn.MSELoss())[1] == []  # it is that already


def test_a_loss_without_gradient_is_replaced(make_setup, task):
    setup = make_setup(loss_fn=lambda output, y: functional.mse_loss(output.round(), y))
    assert once(setup, "fit_output", task.pairs) == ["loss: <lambda> -> mean squared error"]


def test_cross_entropy_over_time(make_setup):
    pairs = [(torch.ones(2, 5, 4), torch.zeros(2, 5, dtype=torch.long))]
    setup, diff = usual(make_setup, 3, pairs, nn.CrossEntropyLoss())
    assert diff == ["loss: CrossEntropyLoss -> cross-entropy of logits"]
    out = setup.model(pairs[0][0])
    expected = functional.cross_entropy(out.transpose(1, 2), pairs[0][1])
    torch.testing.assert_close(setup.loss_fn(out, pairs[0][1]), expected)


def test_targets_take_the_shape_of_the_outputs(make_setup, task):
    pairs = [(x, y.squeeze(1)) for x, y in task.pairs]
    setup = make_setup(batches=pairs)
    assert once(setup, "match_shapes", pairs) == [
        "shape of the targets: broadcast against the outputs -> that of the outputs"
    ]
    out, y = setup.model(task.x[0]), task.y[0]
    assert torch.equal(setup.loss_fn(out, y.squeeze(1)), functional.mse_loss(out, y))


def test_loss_of_a_micro_batch_is_divided(make_setup, task):
    setup = make_setup()
    assert once(setup, "divide_loss", task.pairs, by=4) == [
        "loss of a micro-batch: whole -> divided by 4"
    ]
    out, y = setup.model(task.x[0]), task.y[0]
    assert torch.equal(setup.loss_fn(out, y), functional.mse_loss(out, y) / 4)


def test_sum_becomes_mean(make_setup, task):
    setup = make_setup(loss_fn=nn.MSELoss(reduction="sum"))
    assert once(setup, "mean_loss", task.pairs) == ["reduction of the loss: sum -> mean"]
    assert once(setup, "mean_loss", task.pairs) == []


def test_sign_is_turned(make_setup, task):
    setup = make_setup(loss_fn=lambda output, y: -functional.mse_loss(output, y))
    assert once(setup, "turn_loss", task.pairs) == ["sign of the loss: as given -> turned"]
    out, y = setup.model(task.x[0]), task.y[0]
    assert torch.equal(setup.loss_fn(out, y), functional.mse_loss(out, y))
