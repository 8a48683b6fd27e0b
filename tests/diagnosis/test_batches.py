import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from trimtab.diagnosis import _batches
from trimtab.diagnosis._batches import Batches, call_model, measure, size_of, tensors_in
from trimtab.errors import ConfigError


def pairs(count):
    return [(torch.full((2, 3), float(i)), torch.tensor([i, i])) for i in range(count)]


def numbers(taken):
    return [int(x[0, 0]) for x, _ in taken]


def test_a_list_begins_anew():
    batches = Batches(pairs(3))

    assert numbers(batches.take(7)) == [0, 1, 2, 0, 1, 2, 0]
    assert numbers(batches.kept) == [0, 1, 2, 0, 1, 2, 0]


def test_a_generator_repeats_what_was_kept():
    batches = Batches(p for p in pairs(3))

    assert numbers(batches.take(7)) == [0, 1, 2, 0, 1, 2, 0]
    assert numbers(batches.kept) == [0, 1, 2]


def test_knows_how_many_there_are_when_a_pass_has_ended():
    loader = DataLoader(TensorDataset(torch.zeros(6), torch.zeros(6)), batch_size=2)
    sources = [pairs(3), tuple(pairs(3)), iter(pairs(3)), loader]

    for source, before in zip(sources, [3, 3, 0, 0], strict=True):
        batches = Batches(source)
        list(batches.take(2))
        assert batches.num_given == before
    for source in (pairs(3), tuple(pairs(3)), iter(pairs(3)), loader):
        batches = Batches(source)
        list(batches.take(7))
        assert batches.num_given == 3


def test_an_endless_iterable_is_read_no_further_than_asked():
    source = iter(pairs(100))
    batches = Batches(itertools.chain(source))

    assert numbers(batches.take(5)) == [0, 1, 2, 3, 4]
    assert numbers([next(source)]) == [5]


def test_a_data_loader_shuffles_each_epoch_anew_and_gets_its_generator_back(generator):
    data = TensorDataset(torch.arange(8.0).reshape(8, 1), torch.arange(8))
    loader = DataLoader(data, batch_size=4, shuffle=True, generator=generator)
    before = generator.get_state()
    batches = Batches(loader)

    taken = list(batches.take(4))
    batches.put_back()

    assert all(torch.equal(x.flatten().long(), y) for x, y in taken)
    epochs = [torch.cat([y for _, y in taken[i : i + 2]]) for i in (0, 2)]
    assert all(torch.equal(e.sort().values, torch.arange(8)) for e in epochs)
    assert not torch.equal(*epochs)
    assert torch.equal(generator.get_state(), before)


class Endless:
    def __init__(self):
        self.x = torch.zeros(2, 3)

    def __iter__(self):
        while True:
            self.x += 1  # the same memory again
            yield self.x, torch.zeros(2)


def test_keeps_what_a_source_overwrites():
    batches = Batches(Endless())

    assert numbers(batches.take(3)) == [1, 2, 3]
    assert numbers(batches.kept) == [1, 2, 3]


@pytest.mark.parametrize("make", [list, iter, tuple])
def test_a_loop_body_that_changes_its_batch_changes_no_other(make):
    own = pairs(2)
    batches = Batches(make(own))

    for x, y in batches.take(4):
        x.add_(100)
        y.zero_()

    assert numbers(own) == [0, 1]
    assert numbers(batches.kept)[:2] == [0, 1]
    assert own[1][1].tolist() == [1, 1]


def test_an_input_that_is_its_own_target_stays_so():
    x = torch.ones(2, 3)

    ((a, b),) = Batches([(x, x)]).take(1)

    assert a is b


def test_hands_on_what_cannot_be_copied():
    class Stubborn:
        def __deepcopy__(self, memo):
            raise TypeError

    batch = (Stubborn(), torch.zeros(2))

    ((x, _),) = Batches([batch]).take(1)

    assert x is batch[0]


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(_batches, "KEEP_BYTES", 100)  # a pair has 24 + 16 bytes
    batches = Batches(p for p in pairs(10))

    assert numbers(batches.take(12)) == [*range(10), 0, 1]
    assert numbers(batches.kept) == [0, 1, 2]


@pytest.mark.parametrize("source", [[], iter([]), DataLoader([], batch_size=2)])
def test_empty_is_refused(source):
    with pytest.raises(ConfigError, match="batches is empty"):
        list(Batches(source).take(1))


@pytest.mark.parametrize(
    ("item", "seen"),
    [
        (torch.zeros(2, 3), "Tensor."),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(2)), "tuple of 3"),
        ({"input_ids": 1, "labels": 2}, "dict of 2"),
    ],
)
def test_what_is_no_pair_is_refused(item, seen):
    with pytest.raises(ConfigError, match=r"must be a pair \(x, y\)") as error:
        list(Batches([item]).take(1))

    assert seen in str(error.value)


def test_what_cannot_be_iterated_is_refused():
    with pytest.raises(ConfigError, match=r"batches must be an iterable.*got int"):
        Batches(3)


def test_tensors_in_nested_inputs():
    a, b, c = torch.zeros(1), torch.zeros(2), torch.zeros(3)

    assert [t.numel() for t in tensors_in(((a, "text"), {"b": b, "n": 3, "c": [c]}))] == [1, 2, 3]
    used = (x for x in [a])
    assert tensors_in([used, np.zeros(3), None]) == []
    assert next(used) is a


def test_calls_a_model_as_its_inputs_ask():
    def model(*args, **kwargs):
        return args, kwargs

    packed = pack_sequence([torch.zeros(2)])

    assert call_model(model, 1) == ((1,), {})
    assert call_model(model, (1, 2)) == ((1, 2), {})
    assert call_model(model, [1, 2]) == ((1, 2), {})
    assert call_model(model, {"a": 1}) == ((), {"a": 1})
    assert call_model(model, packed) == ((packed,), {})


@pytest.mark.parametrize(
    ("x", "size"),
    [
        (torch.zeros(4, 3), (4, 12)),
        ({"ids": torch.zeros(5, 2), "mask": torch.zeros(9)}, (5, 10)),
        (torch.tensor(1.0), (1, 1)),
        ("text", (1, 1)),
    ],
)
def test_size(x, size):
    assert size_of(x) == size


def test_measures_against_float64(generator):
    x = torch.randn(5, 7, generator=generator)

    found = measure("input", (x, torch.ones(3)))

    wide = x.double()
    weights = torch.arange(1, 36, dtype=torch.float64).sqrt()
    assert found == {
        "input.nonfinite_fraction": 0.0,
        "input.fingerprint": pytest.approx(float((wide.flatten() * weights).sum())),
        "input.mean": pytest.approx(float(wide.mean())),
        "input.std": pytest.approx(float(wide.std(correction=0))),
        "input.max": pytest.approx(float(wide.abs().max())),
        "input.min": pytest.approx(float(wide.min())),
    }


def test_measures_around_what_is_not_finite():
    x = torch.tensor([1.0, math.nan, 3.0, math.inf])

    found = measure("input", x)

    assert found["input.nonfinite_fraction"] == 0.5
    assert (found["input.mean"], found["input.max"]) == (2.0, 3.0)
    assert math.isfinite(found["input.fingerprint"])
    assert set(measure("input", x * math.nan)) == {"input.nonfinite_fraction", "input.fingerprint"}


def test_measures_whole_numbers_of_targets_alone():
    y = torch.tensor([2, 0, 1])

    assert measure("target", y)["target.max"] == 2.0
    assert set(measure("input", y)) == {"input.nonfinite_fraction", "input.fingerprint"}


def test_fingerprint_tells_the_order_of_examples():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    one, other = (measure("input", t)["input.fingerprint"] for t in (x, x.flip(0)))

    assert one != other


@pytest.mark.parametrize(
    "value",
    ["text", torch.zeros(0), torch.zeros(2, 2).to_sparse(), torch.zeros(2, dtype=torch.complex64)],
)
def test_passes_over_what_has_no_numbers(value):
    assert measure("input", value) == {}
