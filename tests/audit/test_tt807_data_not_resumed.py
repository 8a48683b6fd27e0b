import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from trimtab.audit import DataNotResumed
from trimtab.findings import Evidence

FIX = (
    "use torchdata's StatefulDataLoader with a generator of its own, and save and load its "
    "state_dict(), or derive each batch from the number of the step"
)


def whole(how, cause):
    return DataNotResumed().finding(
        what=f"5 of 5 batches after resuming are not those that would have come: the data {how}",
        site="batches",
        step=6,
        evidence=(Evidence(name="batches that differ", value=5, normal="0"),),
        cause=cause,
        fix=FIX,
    )


ANEW = whole(
    "began anew",
    "the data loader does not know its position: it shows the first batches again",
)
SHUFFLED = whole(
    "came in another order",
    "neither position nor order of the data loader was saved: it shuffles anew",
)


def test_fires_on_a_loader_that_begins_anew(resume, make_build, drawn):
    assert resume(make_build(), without=["batches"]).findings == [ANEW]
    assert resume(make_build(batches=lambda: drawn(0))).findings == [ANEW]


@pytest.mark.parametrize("without", [[], ["random"]])
def test_fires_on_a_loader_that_shuffles(resume, make_build, without):
    """With the seed of the beginning it begins anew; where the random state is put back it
    shuffles once more."""

    def loader():
        x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
        return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=5, shuffle=True)

    found = resume(make_build(batches=loader), without=without).findings

    assert found == [ANEW if without else SHUFFLED]


def test_silent_on_a_loader_that_knows_its_position(resume, make_build):
    assert resume(make_build()).ok


def test_silent_on_batches_that_are_all_the_same(resume, make_build, drawn):
    assert resume(make_build(batches=lambda: drawn(0, 1) * 7)).ok


def test_silent_on_a_loader_that_load_puts_in_its_place(resume, make_build, drawn, whole_state):
    """As a loop does that passes over the batches that it has seen."""
    save, load = whole_state

    def with_step(setup):
        return save(setup) | {"seen": 5}

    def passing_over(setup, state):
        seen = state.pop("seen")
        load(setup, state)
        setup.batches = setup.batches[seen:] + setup.batches[:seen]

    build = make_build(batches=lambda: drawn(0))
    assert resume(build, save=with_step, load=passing_over).ok


@pytest.mark.filterwarnings("ignore:'set_vital':UserWarning")  # torchdata calls it
@pytest.mark.parametrize("without", [[], ["batches"]])
def test_torchdatas_loader_knows_its_position(resume, make_build, without):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
        data, generator = TensorDataset(x, x[:, :3].argmax(1)), torch.Generator().manual_seed(4)
        return loaders.StatefulDataLoader(data, batch_size=5, shuffle=True, generator=generator)

    found = resume(make_build(batches=loader), without=without, steps=8, stop=5).findings

    assert [f.what for f in found] == ([ANEW.what.replace("5 of 5", "3 of 3")] if without else [])
    later = resume(make_build(batches=loader), steps=10, stop=5).findings
    assert [(f.step, f.what) for f in later] == [
        (
            9,
            "2 of 5 batches after resuming are not those that would have come: the data went on "
            "and then came in another order",
        )
    ]  # of its next epoch torchdata 0.11 saves nothing
    assert "the generator that shuffles the next one is not where it was" in later[0].cause
