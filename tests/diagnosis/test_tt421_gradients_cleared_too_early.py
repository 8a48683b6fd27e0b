import pytest

from trimtab.diagnosis import GradientsClearedTooEarly, LossNotConnected
from trimtab.findings import Evidence


def too_early(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss


def by_the_model(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    loss.backward()
    model.zero_grad(set_to_none=False)
    optimizer.step()
    return loss


def by_hand(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    loss.backward()
    for p in model.parameters():
        p.grad = None
    optimizer.step()
    return loss


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(
    ("body", "place"),
    [(too_early, "zero_grad"), (by_the_model, "zero_grad"), (by_hand, "optimizer.step")],
)
def test_fires(watch, line_of, body, place, attached):
    trace = watch(body, attached=attached)

    assert list(GradientsClearedTooEarly().check(trace)) == [
        GradientsClearedTooEarly().finding(
            what="gradients were cleared between backward() and step() in 8 of 8 watched steps",
            site="train_step",
            file=__file__,
            line=line_of(body, place),
            evidence=(Evidence(name="steps with a gradient", value=0.0, normal="8"),),
            cause="zero_grad() comes too early, so the optimizer finds nothing to follow",
            fix="move zero_grad() before loss.backward(), or after optimizer.step()",
        )
    ]
    assert list(LossNotConnected().check(trace)) == []


def test_silent_on_the_right_order(watch, correct):
    assert list(GradientsClearedTooEarly().check(watch(correct))) == []


def test_silent_when_another_model_is_cleared(watch, make_model):
    other = make_model()

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        other.zero_grad()
        optimizer.step()
        return loss

    assert list(GradientsClearedTooEarly().check(watch(body))) == []


def test_silent_when_gradients_are_computed_again(watch):
    def body(model, optimizer, loss_fn, x, y):  # adversarial examples
        x = x.clone().requires_grad_()
        loss_fn(model(x), y).backward()
        optimizer.zero_grad()
        loss = loss_fn(model(x.detach() + 0.01 * x.grad.sign()), y)
        loss.backward()
        optimizer.step()
        return loss

    assert list(GradientsClearedTooEarly().check(watch(body))) == []
