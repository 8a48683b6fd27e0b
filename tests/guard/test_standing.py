"""Where a guarded run stands."""

import pytest

from trimtab.guard import Limits
from trimtab.guard._standing import RECENT, Standing


class TestCrowding:
    @pytest.mark.parametrize(("num_bad", "crowded"), [(20, False), (21, True)])
    def test_is_a_share_above_the_limit(self, num_bad, crowded):
        standing = Standing()
        standing.flags.extend([True] * num_bad + [False] * (RECENT - num_bad))

        assert standing.is_crowded(0.2) is crowded

    def test_is_not_judged_on_few_steps(self):
        standing = Standing()
        standing.flags.extend([True] * (RECENT - 1))

        assert not standing.is_crowded(0.2)

    def test_is_of_the_last_steps_alone(self):
        standing = Standing()
        standing.flags.extend([True] * RECENT + [False] * RECENT)

        assert not standing.is_crowded(0.01)


def test_a_streak_that_ends_takes_its_verdict_with_it():
    standing = Standing(streak=[3, 4], escalated=True)

    standing.end_streak()

    assert (standing.streak, standing.escalated) == ([], False)


def test_two_runs_share_nothing():
    first, second = Standing(), Standing()
    first.streak.append(1)
    first.flags.append(True)

    assert (second.streak, list(second.flags)) == ([], [])


class TestResume:
    def test_takes_up_all_that_decisions_depend_on(self):
        standing = Standing(
            number=7,
            streak=[6, 7],
            overflows=2,
            escalated=True,
            limits=Limits(loss=3.0, norm=5.0),
            norm_limit=0.5,
        )
        standing.flags.extend([False, True, True])

        other = Standing()
        other.load_state_dict(standing.state_dict())

        assert other == standing
        assert other.flags.maxlen == RECENT

    def test_does_not_hold_on_to_what_it_was_given(self):
        state = Standing(streak=[6]).state_dict()
        other = Standing()
        other.load_state_dict(state)
        other.streak.append(7)

        assert state["streak"] == [6]

    def test_reads_a_state_of_before_limits_were_kept(self):
        state = Standing(number=7).state_dict()
        del state["limits"]
        other = Standing()

        other.load_state_dict(state)

        assert (other.number, other.limits.loss) == (7, float("inf"))


class TestSeveralOptimizers:
    def test_a_streak_ends_when_each_has_had_a_good_step(self):
        standing = Standing()
        for number, which in ((1, 0), (2, 1), (3, 0)):
            standing.note_bad(number, which)

        standing.note_good(1)
        assert standing.streak == [1, 2, 3]
        assert standing.is_long(2)
        assert not standing.is_long(3)  # of one optimizer
        standing.note_good(0)
        assert standing.streak == []
        assert not standing.is_long(1)

    def test_one_may_be_clipped_alone(self):
        standing = Standing(norm_limit=2.0, norm_limited=1)

        assert [standing.limit_of(0), standing.limit_of(1)] == [None, 2.0]
        assert Standing(norm_limit=2.0).limit_of(1) == 2.0

    def test_all_that_is_goes_into_the_state(self):
        standing = Standing(norm_limit=2.0, norm_limited=1, every_limit=[Limits(loss=3.0)])
        standing.note_bad(5, 1)
        other = Standing()

        other.load_state_dict(standing.state_dict())

        assert other.bad_runs == {1: 1}
        assert other.limit_of(0) is None
        assert other.every_limit == [Limits(loss=3.0)]

    def test_older_states_know_of_one_optimizer(self):
        state = Standing(streak=[4, 5]).state_dict()
        del state["bad_runs"], state["norm_limited"], state["every_limit"]
        other = Standing()

        other.load_state_dict(state)

        assert other.is_long(2)
