import pytest
import torch
from torch import nn

from trimtab.repair import Scaled
from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order


def once(setup, action, pairs=(), **args):
    return [e.diff for e in apply(setup, [Order(action=action, args=args)], list(pairs))]


def test_examples_that_are_not_finite_are_left_out(make_setup, task):
    bad = [(x.clone(), y.clone()) for x, y in task.pairs[:3]]
    bad[0][0][3, 1] = float("nan")
    bad[0][1][5, 0] = float("inf")
    bad[1][0][:] = float("nan")
    setup = make_setup(batches=bad)

    assert once(setup, "filter_nonfinite") == [
        "examples with NaN or infinite values: trained on -> left out"
    ]

    first, last = setup.batches
    keep = [i for i in range(16) if i not in {3, 5}]
    assert torch.equal(first[0], task.x[0][keep])
    assert torch.equal(first[1], task.y[0][keep])
    assert torch.equal(last[0], task.x[2])
    assert len(list(setup.batches)) == 2  # again


def test_odd_batches_are_brought_back_and_others_left_alone(make_setup, task):
    def odd(i, x, y):
        return (x * 200 + 3, y) if i == 30 else (x, y)

    pairs = [odd(i, x, y) for i, (x, y) in enumerate(task.pairs * 2)]
    setup = make_setup(batches=pairs)
    once(setup, "align_batches")

    given = list(setup.batches)

    for i, ((x, y), (was, target)) in enumerate(zip(given, pairs, strict=True)):
        assert torch.equal(y, target)
        if i == 30:
            assert 0.5 < float(x.std()) < 2
            assert abs(float(x.mean())) < 0.5
        else:
            assert torch.equal(x, was)


def test_sorted_data_are_shuffled_another_way_each_time(make_setup, task):
    x, y = task.x.flatten(0, 1), task.labels.flatten()
    order = y.argsort(stable=True)
    pairs = list(zip(x[order].split(16), y[order].split(16), strict=True))
    setup = make_setup(batches=pairs)

    assert once(setup, "shuffle_batches") == [
        "order of the examples: as the data are sorted -> shuffled"
    ]

    first, second = list(setup.batches), list(setup.batches)
    assert len(first) == 20
    assert all(len(y.unique()) > 1 for _, y in first)
    assert not torch.equal(first[0][0], second[0][0])
    rows = torch.cat([x for x, _ in first])
    assert torch.equal(rows[:, 0].sort().values, x[:, 0].sort().values)


def test_batches_are_joined(make_setup, task):
    setup = make_setup()
    assert once(setup, "join_batches", task.pairs, times=4) == ["batch size: 16 -> 64"]
    given = list(setup.batches)
    assert [x.shape for x, _ in given] == [(64, 4)] * 5
    assert torch.equal(given[0][1], task.y[:4].flatten(0, 1))


@pytest.mark.parametrize("labels", [(1.0, 2.0), (-1.0, 1.0)])
def test_labels_of_a_binary_loss_end_up_at_0_and_1(make_setup, task, labels):
    low, high = labels
    pairs = [(x, torch.where(y > 0, high, low)) for x, y in task.pairs]
    setup = make_setup(batches=pairs, loss_fn=nn.BCEWithLogitsLoss())
    assert once(setup, "rescale_labels", pairs) == [f"labels: {low:g} to {high:g} -> 0 to 1"]
    for (_, y), (_, own) in zip(setup.batches, task.pairs, strict=True):
        assert torch.equal(y, (own > 0).float())


def test_class_labels_begin_at_0(make_setup, task):
    pairs = [(x, y + 1) for x, y in task.classes]
    setup = make_setup(batches=pairs)
    assert once(setup, "rescale_labels", pairs) == ["labels: 1 to 3 -> 0 to 2"]
    assert torch.equal(next(iter(setup.batches))[1], task.labels[0])
    assert once(make_setup(), "rescale_labels", task.classes) == []


def test_inputs_are_standardised_by_the_model(make_setup, task):
    pairs = [(x * torch.tensor([1.0, 10, 100, 0]) + 50, y) for x, y in task.pairs]
    setup = make_setup(batches=pairs)
    inner = setup.model
    seen = []
    inner.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))

    (diff,) = once(setup, "normalise_inputs", pairs)

    assert diff.endswith("-> mean 0, spread 1 for each feature (trimtab.repair.Scaled around the "
                         "model)")  # fmt: skip
    assert isinstance(setup.model, Scaled)
    setup.model(torch.cat([x for x, _ in pairs]))
    spread = torch.tensor([1.0, 1, 1, 0])
    torch.testing.assert_close(seen[-1].std(dim=0), spread, atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[-1].mean(dim=0), torch.zeros(4), atol=1e-3, rtol=0)


def test_tokens_are_not_standardised(make_setup):
    pairs = [(torch.ones(3, 4, dtype=torch.long), torch.ones(3))]
    assert once(make_setup(), "normalise_inputs", pairs) == []


def test_targets_are_compared_in_their_own_units(make_setup, task):
    pairs = [(x, y * 5000 + 10000) for x, y in task.pairs]
    setup = make_setup(batches=pairs)
    whole = torch.cat([y for _, y in pairs])
    inner = setup.model

    once(setup, "scale_targets", pairs)

    x, y = pairs[0]
    own = inner(x)
    torch.testing.assert_close(setup.model(x), own * whole.std() + whole.mean())
    expected = nn.functional.mse_loss(own, (y - whole.mean()) / whole.std())
    torch.testing.assert_close(setup.loss_fn(setup.model(x), y), expected, rtol=1e-4, atol=1e-6)
    assert once(make_setup(), "scale_targets", task.classes) == []


def test_columns_of_a_table_may_have_any_units(make_setup, task):
    units = torch.tensor([1.0, 3e5, 1e-3, 0.0])
    pairs = [(x * units + 5, y) for x, y in task.pairs]
    setup = make_setup(batches=pairs)
    apply(setup, [Order(action="normalise_inputs")], pairs)
    seen = []
    setup.model.model.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    for x, _ in pairs:
        setup.model(x)
    whole = torch.cat(seen)
    torch.testing.assert_close(whole.std(dim=0), torch.tensor([1.0, 1, 1, 0]), atol=0.01, rtol=0)


def test_a_pixel_that_hardly_changes_is_not_blown_up(make_setup):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 2, 2, generator=generator)
    x[:, 0, 0, 0] *= 1e-5
    pairs = [(x, x.flatten(1))]
    setup = make_setup(batches=pairs)
    setup.model = nn.Flatten()
    apply(setup, [Order(action="normalise_inputs")], pairs)
    assert float(setup.model(x)[:, 0].abs().max()) < 0.1
