import pytest
import torch
from torch import nn

from trimtab.diagnosis import UnsafeOperation, diagnose
from trimtab.findings import Evidence, Selection

ALONE = Selection(select=("TT434",))


@pytest.fixture
def regression(env, make_model):
    model = make_model(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)))
    pairs = [(x, x.sum(1, keepdim=True)) for x, _ in env.pairs]
    return model, torch.optim.SGD(model.parameters(), lr=0.01), pairs


def diagnosed(regression, loss_fn):
    model, optimizer, pairs = regression
    return diagnose(model, optimizer, loss_fn, pairs, steps=20, selection=ALONE, trials=False)


def quotient(output, y):
    return (output - y).square().mean() + y.abs().mean() / y.abs().mean()


def test_fires_on_a_value_that_is_not_defined(regression):
    regression[2][6][1].zero_()

    found = diagnosed(regression, quotient)

    before = found.outcome.losses[5]
    assert found.findings == [
        UnsafeOperation().finding(
            what=f"the loss was NaN or infinite in call 7, although the loss was {before:.3g} "
            "before",
            site="loss",
            step=7,
            evidence=(Evidence(name="value", value="not finite", normal="finite"),),
            cause="an operation met the edge of what it is defined for: log or division at 0, the "
            "slope of sqrt or of a norm at 0, or exp of a large number",
            fix="join the operations (log_softmax, logsumexp, binary_cross_entropy_with_logits), "
            "or add a small eps before the log, the root or the division",
        )
    ]


class Root(nn.Module):
    """The slope of its root is not finite at zero."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, x):
        return (self.layer(x) * (x[:, :1] != 0)).abs().sqrt()


def test_fires_on_a_slope_that_is_not_defined(env, make_model):
    model = make_model(Root())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pairs = [(x, x[:, :1].abs()) for x, _ in env.pairs]
    pairs[4][0][:, 0] = 0

    (found,) = diagnosed((model, optimizer, pairs), nn.MSELoss()).findings

    assert (found.code, found.step) == ("TT434", 5)
    assert found.site.startswith("layer.")
    assert found.what.startswith(f"the gradient of {found.site} was NaN or infinite in call 5")


def test_silent_on_what_is_defined(regression):
    def guarded(output, y):
        return (output - y).square().mean() + y.abs().mean() / (y.abs().mean() + 1e-6)

    regression[2][6][1].zero_()

    assert diagnosed(regression, guarded).healthy


def test_silent_on_nan_in_the_data_or_the_weights(regression):
    regression[2][6][0][3, 0] = float("nan")

    assert diagnosed(regression, nn.MSELoss()).healthy


def test_silent_on_a_run_that_blows_up_before(regression):
    model, _, pairs = regression
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    found = diagnosed((model, optimizer, pairs), nn.MSELoss())

    assert found.outcome.broken
    assert found.healthy
