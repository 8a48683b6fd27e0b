from itertools import islice

import pytest
import torch

from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order
from trimtab.repair._shift import shifts_for_good, tokens_of


@pytest.fixture
def make_text():
    """A function that makes batches of tokens, the first of one source and the rest of another."""

    def make(first, rest, other=50):
        generator = torch.Generator().manual_seed(2)
        usual = (1 / torch.arange(1, 51)).repeat(first, 1)
        odd = (torch.arange(other).float() + 1).repeat(rest, 1)
        rows = [torch.multinomial(usual, 256, replacement=True, generator=generator)]
        if rest:
            rows.append(torch.multinomial(odd, 256, replacement=True, generator=generator))
        tokens = [row.reshape(8, 32) for part in rows for row in part]
        return [(x, x.roll(-1, 1)) for x in tokens]

    return make


def test_data_that_become_others_for_good_are_seen(make_text):
    assert shifts_for_good(make_text(30, 12))
    assert shifts_for_good(make_text(30, 12, other=80))  # tokens that were not there before
    assert not shifts_for_good(make_text(42, 0))
    assert not shifts_for_good(make_text(30, 12) + make_text(5, 0))  # they came back
    assert not shifts_for_good(make_text(20, 5))


def test_only_tokens_are_counted(make_text, task):
    assert not shifts_for_good(task.pairs * 2)
    assert tokens_of((torch.tensor([-1] * 20), None)) is None
    assert tokens_of((torch.tensor([1] * 3), None)) is None
    assert tokens_of(({"ids": torch.ones(4, 5).long()}, None)).shape == (4, 5)


def test_earlier_batches_take_the_place_of_others(make_setup, make_text):
    text = make_text(30, 12)
    setup = make_setup(batches=text)
    (edit,) = apply(setup, [Order(action="repeat_early")])
    assert edit.what == "batches from another source"
    got = list(setup.batches)
    assert len(got) == 42
    own = [id(x) for x, _ in text[:30]]
    assert [id(x) for x, _ in got[:30]] == own
    assert all(id(x) in own for x, _ in got[30:])
    assert len({id(x) for x, _ in got[30:]}) == 12


def test_a_source_that_never_comes_back_does_not_hang(make_setup, make_text):
    def endless():
        yield from make_text(25, 0)
        while True:
            yield from make_text(0 + 1, 12)[1:]

    setup = make_setup(batches=endless())
    apply(setup, [Order(action="repeat_early")])
    assert len(list(islice(setup.batches, 100))) == 100
