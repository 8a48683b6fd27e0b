import pytest
import torch
from torch import nn

from trimtab.diagnosis import TrainedInEvalMode
from trimtab.findings import Evidence


def in_eval_mode(correct):
    def body(model, *rest):
        model.eval()
        return correct(model, *rest)

    return body


@pytest.fixture
def norms(make_model):
    """A model with two layers that have modes, and one dropout that never drops."""
    return make_model(
        nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.0), nn.Dropout(0.2), nn.Linear(16, 3)
        )
    )


def optimizer_of(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


@pytest.mark.parametrize("attached", [False, True])
def test_fires(watch, correct, norms, attached):
    trace = watch(
        in_eval_mode(correct), model=norms, optimizer=optimizer_of(norms), attached=attached
    )

    assert list(TrainedInEvalMode().check(trace)) == [
        TrainedInEvalMode().finding(
            site="1",
            also=("3",),
            what="8 of 8 training steps ran in evaluation mode",
            evidence=(Evidence(name="share in train mode", value=0.0, normal="1"),),
            cause="model.eval() switches off 2 dropout or BatchNorm layers, and nothing switched "
            "them on again",
            fix="call model.train() before training, and again after each evaluation",
        )
    ]


def test_fires_after_an_evaluation_without_train(watch, correct):
    calls = iter(range(1000))

    def body(model, *rest):
        loss = correct(model, *rest)
        if next(calls) == 1:
            model.eval()
            with torch.no_grad():
                model(rest[2])
        return loss

    (found,) = TrainedInEvalMode().check(watch(body))

    assert found.what == "6 of 8 training steps ran in evaluation mode"


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(8, 3, num_layers=2, dropout=0.5),
        lambda: nn.MultiheadAttention(8, 2, dropout=0.5),
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1),
    ],
)
def test_fires_on_dropout_inside_of_layers(watch, make, make_model, generator):
    layer = make_model(make())

    def body(model, optimizer, loss_fn, x, y):
        model.eval()
        optimizer.zero_grad()
        output = model(x, x, x) if isinstance(model, nn.MultiheadAttention) else model(x)
        output = output[0] if isinstance(output, tuple) else output
        loss = output.square().mean()
        loss.backward()
        optimizer.step()
        return loss

    x = torch.randn(4, 5, 8, generator=generator)
    trace = watch(body, model=layer, optimizer=optimizer_of(layer), pairs=[(x, x)], calls=8)

    assert len(list(TrainedInEvalMode().check(trace))) == 1


def test_silent_in_train_mode_and_without_such_layers(watch, correct, make_model, norms):
    plain = make_model(nn.Sequential(nn.Linear(8, 3), nn.Dropout(0.0), nn.LayerNorm(3)))

    assert list(TrainedInEvalMode().check(watch(correct))) == []
    for model, body in [(norms, correct), (plain, in_eval_mode(correct))]:
        trace = watch(body, model=model, optimizer=optimizer_of(model))
        assert list(TrainedInEvalMode().check(trace)) == []


def test_silent_on_layers_that_are_frozen_on_purpose(watch, correct, norms):
    def frozen_norms(model, *rest):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return correct(model, *rest)

    trace = watch(frozen_norms, model=norms, optimizer=optimizer_of(norms))

    assert list(TrainedInEvalMode().check(trace)) == []


def test_silent_on_a_frozen_backbone(watch, correct, make_model, norms):
    norms.requires_grad_(False)
    model = nn.Sequential(norms, make_model(nn.Linear(3, 3)))

    trace = watch(in_eval_mode(correct), model=model, optimizer=optimizer_of(model))

    assert list(TrainedInEvalMode().check(trace)) == []


def test_silent_when_only_the_head_is_in_train_mode(watch, correct, norms):
    def body(model, *rest):
        model.eval()
        model[3].train()
        return correct(model, *rest)

    trace = watch(body, model=norms, optimizer=optimizer_of(norms))

    assert list(TrainedInEvalMode().check(trace)) == []


def adversarial(model, optimizer, loss_fn, x, y):
    model.eval()
    x = x.clone().requires_grad_()
    for _ in range(3):
        loss_fn(model(x), y).backward()
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model((x + 0.01 * x.grad.sign()).detach()), y)
    loss.backward()
    optimizer.step()
    return loss


def taught(model, optimizer, loss_fn, x, y):
    model.eval()
    teacher = model(x).detach()  # with gradients on, as people write it
    model.train()
    optimizer.zero_grad()
    output = model(x)
    loss = loss_fn(output, y) + (output - teacher).square().mean()
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("body", [adversarial, taught])
def test_silent_on_further_passes_in_evaluation_mode(watch, body):
    assert list(TrainedInEvalMode().check(watch(body))) == []
