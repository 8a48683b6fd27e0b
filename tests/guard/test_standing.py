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
