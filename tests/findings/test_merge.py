import pytest

from trimtab.findings import explains, merge


@pytest.fixture
def dead(rules):
    return rules.DeadUnits().finding(what="dead", site="a", step=100)


@pytest.fixture
def spike(rules):
    return rules.LossSpike().finding(what="spike", step=140)


def test_a_fault_seen_again_is_counted(dead):
    later = dead.with_(step=120, what="more dead", count=2)

    assert merge([later, dead]) == [dead.with_(count=3)]


def test_a_fault_at_several_sites_is_one(dead):
    second = dead.with_(site="b", step=90, also=("c",))

    assert merge([dead, second]) == [second.with_(count=2, also=("c", "a"))]


def test_the_gravest_of_several_sites_comes_first(dead):
    advice = dead.with_(site="b", step=1, severity="advice")

    assert merge([advice, dead]) == [dead.with_(count=2, also=("b",))]


def test_what_follows_becomes_a_consequence(dead, spike):
    assert merge([spike, dead]) == [dead.with_(consequences=(spike,))]


@pytest.mark.parametrize(("step", "joined"), [(89, False), (90, True), (None, True)])
def test_a_consequence_may_be_seen_a_little_before(dead, spike, step, joined):
    assert explains(dead, spike.with_(step=step)) is joined
    assert len(merge([dead, spike.with_(step=step)])) == (1 if joined else 2)


def test_no_cause_is_its_own_effect(dead, rules):
    assert not explains(dead, dead)
    assert not explains(dead, dead.with_(site="b"))
    clip = rules.ClipFirst().finding(what="clip", file="a.py", line=1)
    assert not explains(clip, dead)  # TT701 leads to nothing
    assert not explains(dead, clip)


def test_source_findings_stay_apart_by_line(rules):
    first = rules.ClipFirst().finding(what="clip", file="a.py", line=1)
    second = first.with_(line=9)

    assert merge([second, first, first]) == [first.with_(count=2), second]


def test_causes_come_first_and_advice_last(dead, rules):
    advice = rules.NoDocstring().finding(what="advice")
    clip = rules.ClipFirst().finding(what="clip", file="a.py", line=1)

    assert merge([advice, dead, clip]) == [clip, dead, advice]


def test_merging_again_changes_nothing(dead, spike):
    once = merge([dead, dead.with_(site="b"), spike])

    assert merge(once) == once


def test_what_has_no_rule_stands_alone(dead):
    foreign = dead.with_(code="ZZ001", name="foreign")

    assert merge([foreign, dead]) == [dead, foreign]
