from trimtab.audit import ScheduleNotResumed
from trimtab.findings import Evidence

FIX = "save scheduler.state_dict(), and load it after the optimizer's state"


def test_fires_on_a_schedule_that_is_not_saved(resume, make_build):
    (found,) = resume(make_build(), without=["scheduler"]).findings

    name = "values that differ (last_epoch, _step_count, _last_lr.0)"
    assert found == ScheduleNotResumed().finding(
        what="the learning-rate schedule is not where it was: last_epoch was 5 and is 0",
        site="LinearLR",
        step=6,
        evidence=(
            Evidence(name=name, value=3, normal="0"),
            Evidence(name="last_epoch", value="0", normal="5"),
        ),
        cause="the schedule was not saved or not loaded and began anew: learning rate and warmup "
        "are those of the first step",
        fix=FIX,
    )


def test_tells_a_schedule_that_moved_after_loading(resume, make_build, whole_state):
    _, load = whole_state

    def and_moves(setup, state):
        load(setup, state)
        setup.optimizer.step()  # before which torch would warn
        setup.scheduler.step()

    build = make_build()
    found = resume(build, load=and_moves).findings

    assert [f.name for f in found] == ["schedule-not-resumed"]
    assert found[0].what.endswith("last_epoch was 5 and is 6")
    assert (
        found[0].cause
        == "the schedule was loaded into one with other settings, or moved after loading"
    )


def test_silent_on_a_schedule_that_is_saved(resume, make_build):
    assert resume(make_build()).ok


def test_silent_without_a_schedule(resume, make_build):
    assert resume(make_build(schedule=False)).ok
