"""What a guard works with."""

import pytest
import torch
from torch import nn

from trimtab.guard import Guard, Policy
from trimtab.guard._gear import Gear
from trimtab.guard._spike import Spike


def assemble(config, *, num_optimizers=1, replayer=None, **options):
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        layers = [nn.Linear(2, 2) for _ in range(num_optimizers)]
    model = nn.Sequential(*layers, nn.BatchNorm1d(2))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]
    settings = {"parts": {}, "agree": lambda yes: yes, "slowest": lambda value: value}
    return model, Gear.assemble(config, model, optimizers, replayer=replayer, **settings | options)


class TestAssembling:
    def test_gives_each_optimizer_a_policy_of_its_own_and_the_first_the_users(self):
        mine = Spike()

        _, gear = assemble(Guard(policy=mine), num_optimizers=2)

        first, second = gear.policies
        assert first is mine
        assert isinstance(second, Policy)
        assert second is not mine
        assert gear.read_limits() == [mine.limits()] * 2

    @pytest.mark.parametrize(
        ("config", "has_ring"),
        [(Guard(), True), (Guard(snapshots=0), False), (Guard(act=False), False)],
    )
    def test_makes_a_ring_only_if_there_is_going_back(self, config, has_ring):
        _, gear = assemble(config)

        assert (gear.ring is not None) is has_ring

    @pytest.mark.parametrize(("config", "kept"), [(Guard(), True), (Guard(act=False), False)])
    def test_watches_buffers_only_if_they_are_put_back(self, config, kept):
        model, gear = assemble(config)
        before = model[-1].running_mean.clone()

        model(torch.ones(4, 2))
        gear.keeper.put_back(skip=True)

        assert torch.equal(model[-1].running_mean, before) is kept

    @pytest.mark.parametrize(
        ("config", "replayer", "kept"),
        [
            (Guard(), object(), True),
            (Guard(), None, False),
            (Guard(explain=False), object(), False),
            (Guard(tape_bytes=0), object(), False),
            (Guard(act=False), object(), False),
        ],
    )
    def test_keeps_batches_only_if_they_will_be_replayed(self, config, replayer, kept):
        assert assemble(config, replayer=replayer)[1].keeps_tape is kept


class TestSnapshots:
    def test_let_go_of_batches_of_before_the_oldest(self, make_job):
        gear = make_job().run(1, 6).guard._gear
        gear.ring.drop_after(-1)
        assert len(gear.tape.since(4)) == 2

        gear.take_snapshot(4)

        assert [s.step for s in gear.ring.snapshots] == [4]
        assert len(gear.tape.since(4)) == 2
        assert gear.tape.since(3) is None

    def test_without_a_ring_are_not_taken(self):
        _, gear = assemble(Guard(snapshots=0))

        gear.take_snapshot(5)

        assert gear.ring is None


def test_an_investigation_has_the_time_and_the_ranks_of_the_guard(make_job):
    job = make_job(guard=Guard(explain_s=1e6)).run(1, 20)
    gear = job.guard._gear
    steps = gear.tape.since(10)

    case = gear.investigation(
        steps[:4], steps[4:], steps, None, first_bad=15, limits=gear.read_limits()
    )

    assert case.first_bad == 15
    assert case.replayer is job.guard.replayer
    assert case.agree is gear.agree
    assert case.scratch().live is gear.live
    case._check_time()  # raises if the time is up
