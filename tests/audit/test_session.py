import torch
from torch import nn

from trimtab.audit._session import Session, train, watch


def test_each_step_is_written_down(make_build, drawn):
    session = Session(make_build(lambda: nn.Dropout(0.5))(0), keep_at=2)

    train(session, 4)

    steps = session.steps
    assert len(steps) == 4
    assert len({s.batch for s in steps}) == len({s.weights for s in steps}) == 4
    assert all(s.updated and s.draws == {"torch"} and s.loss > 0 for s in steps)
    assert session.kept["schedule"]["last_epoch"] == 2
    assert session.end["schedule"]["last_epoch"] == 4
    assert len(session.pairs) == 4


def test_given_pairs_take_the_place_of_the_batches(make_build, drawn):
    one, other = Session(make_build()(0)), Session(make_build()(0))

    train(one, 3)
    train(other, 3, drawn(5)[:3])

    assert [s.result for s in one.steps] == [s.result for s in other.steps]


def test_a_call_without_an_update_is_told(make_build):
    def lazy(model, optimizer, loss_fn, x, y):
        return loss_fn(model(x), y)

    session = Session(make_build(train_step=lambda: lazy)(0))
    train(session, 2)

    assert [s.updated for s in session.steps] == [False, False]
    assert session.end["schedule"]["last_epoch"] == 0


def plain(setup, num_steps, folder):
    for x, y in setup.batches.data[:num_steps]:
        with torch.no_grad():
            setup.model(x)  # an evaluation
        setup.optimizer.zero_grad()
        setup.loss_fn(setup.model(x), y).backward()
        setup.optimizer.step()


def test_hooks_see_what_a_loop_does_by_itself(make_build):
    build = make_build(lambda: nn.Dropout(0.5), schedule=False)
    session = Session(build(0), keep_at=1)
    watch(session, plain, 3, None)
    other = Session(build(0))  # which sets the seed of dropout anew
    watch(other, plain, 3, None)

    assert [s.result for s in session.steps] == [s.result for s in other.steps]
    assert [s.draws for s in session.steps] == [{"torch"}] * 3
    assert all(s.loss > 0 for s in session.steps)
    assert session.kept["optimizer"]["0.weight: step"] == 1


def test_they_are_taken_off_again(make_build):
    setup = make_build()(0)
    own = setup.loss_fn

    watch(Session(setup), plain, 2, None)

    assert not setup.model._forward_pre_hooks
    assert not own._forward_hooks
    assert setup.loss_fn is own
    assert not setup.optimizer._optimizer_step_post_hooks


def test_a_loss_function_and_micro_batches_are_seen_too(make_build):
    def accumulating(setup, num_steps, folder):
        for x, y in setup.batches.data[:num_steps]:
            setup.optimizer.zero_grad()
            for part, labels in zip(x.chunk(2), y.chunk(2), strict=True):
                setup.loss_fn(setup.model(part), labels).backward()
            setup.optimizer.step()

    setup = make_build()(0)
    setup.loss_fn = own = nn.functional.cross_entropy
    session = Session(setup)

    watch(session, accumulating, 3, None)

    assert len(session.steps) == 3
    assert all(s.loss > 0 for s in session.steps)
    assert setup.loss_fn is own
