import pytest
import torch

from trimtab.audit._split import SplitBatch, percent

RIGHT = (0.1, 0.2, 0.3, 0.4)


@pytest.fixture
def split():
    def make(got=RIGHT, right=RIGHT, **changes):
        given = {"sizes": (2, 4, 6, 8), "right_error": 0.0, "got_error": 0.0, "noise": 1e-7}
        vectors = {"right": torch.tensor(right).double(), "got": torch.tensor(got).double()}
        return SplitBatch(**(given | {"condition": 2.0} | vectors | changes))

    return make


def test_the_right_weights(split):
    found = split()

    assert found.is_right
    assert found.ratio == pytest.approx(1)
    assert found.is_by_examples
    assert (found.even, found.is_even, found.lost, found.mixes) == (None, False, [], False)


def test_rounding_is_tolerated_and_no_more(split):
    assert split().tolerance == 1e-5
    assert split(noise=1e-4).tolerance == pytest.approx(2e-3)
    assert split(got_error=0.01).tolerance == pytest.approx(0.06)
    nearly = (0.1, 0.2, 0.3, 0.4001)
    assert not split(nearly).is_right
    assert split(nearly, noise=1e-4).is_right


def test_multiples_and_even_weights(split):
    assert split(tuple(4 * w for w in RIGHT)).ratio == pytest.approx(4)
    assert split((0.25,) * 4).ratio is None
    assert split((0.25,) * 4).even == pytest.approx(0.25)
    assert split((0.25,) * 4, (0.25,) * 4).is_even


def test_lost_micro_batches(split):
    assert split((0, 0, 0, 1.0)).lost == [1, 2, 3]
    assert split((0.1, 0, 0.3, 0.4)).lost == [2]


def test_clipping_on_the_way_changes_shares(split):
    def loud(*weights):
        return torch.tensor(weights).double()

    assert not split().is_clipped_apart
    assert not split(loud=loud(0.01, 0.02, 0.03, 0.04)).is_clipped_apart
    assert split(loud=loud(0.01, 0.02, 0.03, 0.05)).is_clipped_apart
    assert not split(loud=loud(0, 0, 0, 0)).is_clipped_apart


def test_examples_that_look_at_each_other(split):
    assert split(right_error=0.01).mixes
    assert not split(right_error=1e-12).mixes


def test_shares_in_words():
    assert percent(torch.tensor([0.25, 1e-7, 0.123456, -1.0])) == "25 %, 0 %, 12.3 %, -100 %"
