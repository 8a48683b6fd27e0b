from trimtab.audit import GroupSettingsNotResumed
from trimtab.findings import Evidence


def test_fires_on_settings_that_are_set_after_loading(resume, make_build, whole_state):
    _, load = whole_state

    def and_sets(setup, state):
        load(setup, state)
        setup.optimizer.param_groups[0]["weight_decay"] = 0.1

    (found,) = resume(make_build(), load=and_sets).findings

    assert found == GroupSettingsNotResumed().finding(
        what="1 settings of parameter groups are not what was saved (param group 0: weight_decay): "
        "weight_decay was 0.01 and is 0.1",
        site="param group 0",
        step=6,
        evidence=(
            Evidence(name="settings that differ", value=1, normal="0"),
            Evidence(name="weight_decay", value="0.1", normal="0.01"),
        ),
        cause="settings of the parameter groups, such as learning rate and weight decay, were not "
        "loaded, or something was set after loading",
        fix="build optimizer and schedule first, then load both states, and set no learning rate "
        "or weight decay afterwards",
    )


def test_silent_on_settings_that_are_loaded(resume, make_build):
    assert resume(make_build()).ok
