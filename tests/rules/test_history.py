import math
from collections import OrderedDict

import numpy as np
import pytest
import torch

from trimtab.rules import History
from trimtab.rules._history import HEAD
from trimtab.signals import StepRecord


def steps(count, start=1, **values):
    return [StepRecord(s, {"loss": float(s)} | values) for s in range(start, start + count)]


def record(step, sites, **columns):
    table = {name: np.array(values) for name, values in columns.items()}
    return StepRecord(step, {"loss": float(step)}, {"parameters": (sites, table)})


def filled(records, **options):
    history = History(**options)
    for each in records:
        history.add(each)
    return history


def test_a_series_has_a_value_for_each_step():
    series = filled(steps(300)).series("loss")

    assert series.steps.tolist() == list(range(1, 301))
    assert np.array_equal(series.values, series.steps)


def test_a_signal_that_was_never_measured_is_nan():
    history = filled(steps(3))

    assert np.isnan(history.series("gradient.norm").values).all()
    assert history.series("gradient.norm").known().values.size == 0
    assert history.table("modules", "activation.rms").values.size == 0


def test_a_signal_that_comes_later_is_nan_before():
    values = filled(steps(2) + steps(2, start=3, extra=5.0)).series("extra").values

    assert np.isnan(values[:2]).all()
    assert values[2:].tolist() == [5, 5]


@pytest.mark.parametrize("count", [HEAD + 99, HEAD + 300, 5000])
def test_the_beginning_and_the_newest_are_kept(count):
    history = filled(steps(count), max_steps=100)

    series = history.series("loss")

    assert series.steps[:HEAD].tolist() == list(range(1, HEAD + 1))
    assert series.steps[-100:].tolist() == list(range(count - 99, count + 1))
    assert np.array_equal(series.values, series.steps)
    assert len(series.steps) <= 100 + 2 * HEAD
    assert (np.diff(series.steps) > 0).all()


def test_a_table_has_a_column_for_each_site():
    history = filled([record(1, ["a", "b"], rms=[1, 2]), record(10, ["a", "b"], rms=[3, 4])])

    table = history.table("parameters", "rms")

    assert table.steps.tolist() == [1, 10]
    assert table.sites == ["a", "b"]
    assert table.values.tolist() == [[1, 2], [3, 4]]
    assert table.only([False, True]).sites == ["b"]
    assert table.since(2).values.tolist() == [[3, 4]]
    assert table.last(1).steps.tolist() == [10]


def test_sites_may_come_later_and_in_another_order():
    history = filled([record(1, ["a"], rms=[1]), record(2, ["b", "a"], rms=[5, 6])])

    table = history.table("parameters", "rms")

    assert table.sites == ["a", "b"]
    assert table.values[1].tolist() == [6, 5]
    assert table.values[0, 0] == 1
    assert math.isnan(table.values[0, 1])


def test_signals_of_steps_can_be_read_at_records():
    history = filled([record(1, ["a"], rms=[1]), *steps(3, start=2), record(5, ["a"], rms=[2])])

    assert history.at_record("loss").steps.tolist() == [1, 5]


def test_state_survives_bit_for_bit():
    history = filled([record(1, ["a", "b"], rms=[1, 2]), *steps(200, start=2)], max_steps=50)
    history.order = ["x", "y"]
    later = [record(202, ["b", "c"], rms=[3, 4]), *steps(80, start=203)]

    other = History(max_steps=50)
    other.load_state_dict(history.state_dict())
    for each in later:
        history.add(each)
        other.add(each)

    assert other.order == ["x", "y"]
    assert np.array_equal(other.series("loss").values, history.series("loss").values)
    ours, theirs = history.table("parameters", "rms"), other.table("parameters", "rms")
    assert ours.sites == theirs.sites == ["a", "b", "c"]
    assert np.array_equal(ours.values, theirs.values, equal_nan=True)


def test_state_holds_tensors_and_plain_things_only():
    def check(value):
        if isinstance(value, dict | OrderedDict):
            return all(map(check, value.values()))
        if isinstance(value, list):
            return all(map(check, value))
        return isinstance(value, torch.Tensor | int | float | str)

    assert check(filled([record(1, ["a"], rms=[1])]).state_dict())
