import pytest
import torch
from torch import nn

from trimtab.repair import Scaled
from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order
from trimtab.repair._rewards import huge_columns

ORDER = [Order(action="scale_rewards")]


@pytest.fixture
def moves():
    """States, and of each the move that was made and its reward in the thousands."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 16, 4, generator=generator)
    move = (x[..., :1] > 0).float()
    reward = 3000 * (x[..., 1:2] > 0).float() * (1 - move)
    return list(zip(x, torch.cat([move, reward], -1), strict=True))


def taken(output, y):
    """The loss of the move that was made, as a user writes it."""
    value = output.gather(1, y[:, :1].long())
    return (value - y[:, 1:]).square().mean()


def test_fields_that_are_huge_are_found(moves, task):
    columns = huge_columns(moves)
    assert list(columns) == [1]
    assert 1000 < columns[1] < 2000
    assert huge_columns([(x, y / torch.tensor([1.0, 3000.0])) for x, y in moves]) == {}
    assert huge_columns([(x, 1000 + y) for x, y in moves]) == {}  # targets that are huge as a whole
    assert huge_columns([(x, y.long()) for x, y in moves]) == {}
    assert huge_columns(task.pairs) == {}
    assert huge_columns([]) == {}


def values(moves):
    """What a move is worth in the old units."""
    x = torch.cat([x for x, _ in moves])
    return x, 3000 * (x[:, 1] > 0).float()


@pytest.mark.parametrize("own", [False, True])
def test_a_model_learns_in_the_rewards_own_units_and_answers_in_the_old(
    make_build, moves, own, train
):
    def step(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = taken(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def error(orders):
        setup = make_build(
            model=lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)),
            loss_fn=taken,
            batches=moves,
            train_step=step if own else None,
        )(0)
        edits = apply(setup, orders, moves)
        if own:
            for _ in range(10):
                for x, y in setup.batches:
                    setup.train_step(setup.model, setup.optimizer, setup.loss_fn, x, y)
        else:
            train(setup, 200)
        x, worth = values(moves)
        with torch.no_grad():
            error = ((setup.model(x)[:, 0] - worth)[x[:, 0] <= 0] / 3000).square().mean()
        return float(error), setup, edits

    mended, setup, (edit,) = error(ORDER)
    assert mended < 0.1 < 0.2 < error([])[0]
    assert isinstance(setup.model, Scaled)
    assert edit.what == "size of rewards"
    assert edit.advice.startswith(f"divide rewards by {edit.before}")


def test_targets_of_two_sizes_are_no_fields(make_setup, moves):
    setup = make_setup(model=lambda: nn.Linear(4, 2), batches=moves)
    assert apply(setup, ORDER, moves) == []
    broken = make_setup(model=lambda: nn.Linear(9, 2), batches=moves)
    assert apply(broken, ORDER, moves) == []
