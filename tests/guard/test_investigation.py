import pytest
import torch

from trimtab.guard import Change, freeze

WITHOUT = Change(without=frozenset(range(53, 61)))


def never(_change):
    return False


def only(name):
    """Heal with a change of this one thing."""
    return lambda change: list(change.to_dict()) == [name]


class TestTheState:
    def test_a_sound_one_acquits_everything_but_the_data(self, investigate):
        case = investigate(never, sound=True)

        verdict = case.run()

        assert (verdict.finding.code, verdict.restored) == ("TT512", False)
        assert verdict.change == Change(without=frozenset({61, 62, 63}))
        assert verdict.lost == {61, 62, 63}
        assert case.ring.restored == []
        assert case.replayer.changes == []

    def test_that_is_known_to_be_bad_is_replayed_whatever_the_batches_say(self, investigate):
        case = investigate(never, sound=True)

        verdict = case.run(corrupt=True)

        assert (verdict.finding.code, verdict.restored) == ("TT310", True)

    def test_is_judged_on_the_last_clean_batches(self, investigate):
        case = investigate(never, sound=True)

        assert [s.number for s in case.yardstick.clean] == [57, 58, 59, 60]


class TestReplays:
    def test_begin_with_the_steps_as_they_were(self, investigate):
        case = investigate(lambda change: change.is_none)

        verdict = case.run()

        assert verdict.finding.code == "TT603"
        assert case.ring.restored == [40]
        first = verdict.experiments[0]
        assert (first.change, first.healed, first.reproduced) == (Change(), True, False)
        assert first.note == "differs from step 41 on"
        assert case.replayer.changes == [Change(), Change()]  # to see, and to go on
        assert verdict.lost == frozenset()

    def test_change_one_thing_at_a_time_and_the_least_first(self, investigate):
        case = investigate(never, caps_attention=True, precision="fp16", rates=jump)

        verdict = case.run()

        assert [e.change for e in verdict.experiments] == [
            Change(),
            Change(lr_cap=0.1),
            WITHOUT,
            Change(clip=2.0),
            Change(lr=0.5),
            Change(fresh_moments=True),
            Change(precision="fp32"),
            Change(attention_cap=50.0),
        ]
        assert not any(e.healed for e in verdict.experiments)
        assert verdict.experiments[0].reproduced
        assert verdict.finding.what.endswith("none of 8 replays removed it")

    def test_do_not_clip_to_more_than_the_run_does(self, investigate):
        case = investigate(only("clip"))
        case.replayer.max_norm = 1.0

        assert case.run().finding.code == "TT310"

    def test_of_changes_begin_eight_steps_before_the_incident(self, investigate):
        verdict = investigate(only("lr")).run()

        assert verdict.experiments[0].steps[0] == 41
        assert {e.steps[0] for e in verdict.experiments[2:]} == {53}

    @pytest.mark.parametrize("culprit", [53, 56, 57, 60])
    def test_find_the_one_batch_by_halving(self, investigate, culprit):
        case = investigate(lambda change: culprit in change.without)

        verdict = case.run()

        assert verdict.change == Change(without=frozenset({culprit}))
        assert verdict.suspects == {"steps": [culprit]}
        assert verdict.lost == {culprit}
        assert len(verdict.experiments) <= 2 + 2 * 3

    def test_that_need_many_steps_gone_look_for_another_cause_first(self, investigate):
        case = investigate(lambda change: len(change.without) >= 4 or change.lr == 0.5)

        assert case.run().finding.code == "TT451"

    def test_take_many_steps_where_nothing_else_helps(self, investigate):
        verdict = investigate(lambda change: len(change.without) >= 4).run()

        assert verdict.finding.code == "TT512"
        assert verdict.change == Change(without=frozenset({57, 58, 59, 60}))

    def test_that_all_fail_leave_the_snapshot(self, investigate):
        case = investigate(never)

        verdict = case.run()

        assert (verdict.finding.code, verdict.restored) == ("TT310", True)
        assert verdict.change is None
        assert case.ring.restored[-1] == 40
        assert verdict.lost == set(range(41, 64))

    def test_stop_when_the_time_is_up(self, investigate):
        case = investigate(only("lr"), budget_s=0.0)

        verdict = case.run()

        assert verdict.finding.code == "TT310"
        assert [e.note for e in verdict.experiments] == ["broken off: the time was up"]
        assert case.ring.restored == [40, 40]

    def test_that_raise_go_back_all_the_same(self, investigate):
        case = investigate(never)

        def raises(*_args, **_options):
            raise FileNotFoundError("train.bin")

        case.replayer.run = raises

        verdict = case.run()

        assert (verdict.finding.code, verdict.restored) == ("TT310", True)
        assert verdict.experiments[0].note == "broken off: FileNotFoundError: train.bin"

    def test_are_not_tried_on_batches_that_were_written_over(self, investigate):
        case = investigate(never)
        x = torch.ones(2)
        case.steps[-1].micro_steps[0].compute = freeze(lambda: x.sum() * 1)
        assert case.can_replay(case.steps)
        x.add_(1)

        verdict = case.run()

        assert not case.can_replay(case.steps)
        assert (verdict.finding.code, verdict.experiments) == ("TT310", ())

    def test_of_one_rank_bind_all(self, investigate):
        case = investigate(lambda change: change.is_none)
        case.agree = case.yardstick.agree = lambda _yes: True  # another rank's state is not sound

        assert case.run().finding.code == "TT310"


def jump(step):
    return 0.1 if step < 60 else 10.0
