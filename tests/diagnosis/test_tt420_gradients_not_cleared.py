import pytest

from trimtab.diagnosis import GradientsNotCleared
from trimtab.findings import Evidence, Fix


def never(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("attached", [False, True])
def test_fires_without_zero_grad(watch, line_of, attached):
    trace = watch(never, attached=attached)

    assert list(GradientsNotCleared().check(trace)) == [
        GradientsNotCleared().finding(
            what="in 7 of 7 steps backward() added to gradients that an earlier optimizer step "
            "had used already",
            site="train_step",
            file=__file__,
            line=line_of(never, "backward"),
            evidence=(
                Evidence(
                    name="share of steps that start with old gradients", value=1.0, normal="0"
                ),
            ),
            cause="zero_grad() is missing, so each step follows the sum of all gradients so far",
            fix="call optimizer.zero_grad() before loss.backward()",
            remedy=Fix(action="clear_gradients"),
        )
    ]


def test_fires_when_another_optimizer_clears(env, watch):
    other = type(env.optimizer)(env.model[0].parameters(), lr=0.1)

    def clears_the_wrong_one(model, optimizer, loss_fn, x, y):
        other.zero_grad()  # the first layer alone
        return never(model, optimizer, loss_fn, x, y)

    (found,) = GradientsNotCleared().check(watch(clears_the_wrong_one))

    assert found.evidence[0].value == 1.0


def test_fires_when_one_call_in_two_clears(watch):
    calls = iter(range(1000))

    def sometimes(model, optimizer, loss_fn, x, y):
        if next(calls) % 2 == 0:
            optimizer.zero_grad()
        return never(model, optimizer, loss_fn, x, y)

    (found,) = GradientsNotCleared().check(watch(sometimes))

    assert found.what.startswith("in 4 of 7 steps")


def cleared_before(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad(set_to_none=False)
    return never(model, optimizer, loss_fn, x, y)


def cleared_after(model, optimizer, loss_fn, x, y):
    loss = never(model, optimizer, loss_fn, x, y)
    model.zero_grad()
    return loss


def cleared_by_hand(model, optimizer, loss_fn, x, y):
    for p in model.parameters():
        p.grad = None
    return never(model, optimizer, loss_fn, x, y)


def accumulated(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    for part, labels in zip(x.chunk(4), y.chunk(4), strict=True):
        loss = loss_fn(model(part), labels)
        (loss / 4).backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("body", [cleared_before, cleared_after, cleared_by_hand, accumulated])
@pytest.mark.parametrize("attached", [False, True])
def test_silent_when_cleared(watch, body, attached):
    assert list(GradientsNotCleared().check(watch(body, attached=attached))) == []
