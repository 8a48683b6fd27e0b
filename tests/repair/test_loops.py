import torch
from torch import nn
from torch.optim import lr_scheduler

from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order


def never_zeroed(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def test_loop_body_is_replaced_and_the_reason_given(make_setup):
    setup = make_setup(train_step=never_zeroed)
    (edit,) = apply(setup, [Order(action="clear_gradients", reason="TT420")])
    assert edit.diff == "loop body: never_zeroed -> zero_grad, forward, backward, step"
    assert setup.train_step is None
    line = never_zeroed.__code__.co_firstlineno
    assert edit.advice == (
        f"in the training step ({__file__}:{line}): gradients were not cleared between steps "
        "(zero_grad)\n"
        "optimizer.zero_grad()\n"
        "loss = loss_fn(model(x), y)\n"
        "loss.backward()\n"
        "optimizer.step()"
    )


def test_schedule_of_the_loop_body_is_kept(make_setup):
    setup = make_setup()
    schedule = lr_scheduler.StepLR(setup.optimizer, 10)

    def step(model, optimizer, loss_fn, x, y):
        schedule.step()

    setup.train_step = step
    apply(setup, [Order(action="plain_loop")])
    assert setup.scheduler is schedule


def test_an_optimizer_that_maximises_is_turned(make_setup):
    setup = make_setup(optimizer=lambda params: torch.optim.SGD(params, lr=0.1, maximize=True))
    (edit,) = apply(setup, [Order(action="negate_loss")])
    assert edit.diff == "optimizer's maximize: True -> False"
    assert setup.optimizer.param_groups[0]["maximize"] is False
    assert apply(make_setup(), [Order(action="plain_loop")]) == []


def set_gradients(setup, value):
    for p in setup.model.parameters():
        p.grad = torch.full_like(p, value)


def test_clipping_comes_right_before_the_step(make_setup):
    setup = make_setup(optimizer=lambda params: torch.optim.SGD(params, lr=1.0))
    (edit,) = apply(setup, [Order(action="clip_gradients", args={"max_norm": 0.5})])
    before = nn.utils.parameters_to_vector(setup.model.parameters()).detach()
    set_gradients(setup, 7.0)
    setup.optimizer.step()
    after = nn.utils.parameters_to_vector(setup.model.parameters()).detach()
    assert edit.diff == "norm of the gradients: not clipped -> clipped to 0.5"
    torch.testing.assert_close((after - before).norm(), torch.tensor(0.5), rtol=1e-4, atol=0)


def test_clipping_in_place_of_a_tiny_threshold(make_setup):
    setup = make_setup(train_step=never_zeroed)
    edits = apply(setup, [Order(action="plain_loop", args={"max_norm": 2.0}, reason="TT432")])
    assert [e.what for e in edits] == ["loop body", "norm of the gradients"]


def test_steps_that_are_not_finite_touch_nothing(make_setup):
    setup = make_setup()
    (edit,) = apply(setup, [Order(action="skip_nonfinite")])
    before = [p.detach().clone() for p in setup.model.parameters()]
    set_gradients(setup, 1.0)
    setup.model[0].bias.grad[0] = float("nan")
    setup.optimizer.step()
    assert edit.diff == "steps with a gradient that is not finite: made -> left out"
    assert all(torch.equal(p, was) for p, was in zip(setup.model.parameters(), before, strict=True))
    set_gradients(setup, 1.0)
    setup.optimizer.step()
    assert not any(
        torch.equal(p, was) for p, was in zip(setup.model.parameters(), before, strict=True)
    )
