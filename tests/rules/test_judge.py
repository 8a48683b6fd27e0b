from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from trimtab.findings import Finding, Severity, Symptom
from trimtab.rules import History, Judge, RunRule, note_finding
from trimtab.rules.tt207_nonfinite_activation import NonfiniteActivation
from trimtab.signals import NonfiniteSource, RunWriter, StepRecord, load_run


@dataclass(frozen=True, kw_only=True)
class High(RunRule):
    """The loss is above a limit."""

    code: ClassVar = "XX001"
    name: ClassVar = "high"
    symptom: ClassVar = Symptom.DIVERGENCE

    limit: float = 5.0

    def check(self, history: History) -> Iterator[Finding]:
        if history.series("loss").values[-1] > self.limit:
            yield self.finding(what="the loss is high", step=history.step)


@dataclass(frozen=True, kw_only=True)
class Fails(RunRule):
    """A rule with a mistake."""

    code: ClassVar = "XX002"
    name: ClassVar = "fails"
    symptom: ClassVar = Symptom.NAN

    def check(self, history: History) -> Iterator[Finding]:
        yield self.finding(what="x" + history.step)  # a mistake


def step(number, loss=1.0, *, recorded=True, **values):
    table = {"parameters": (["w"], {"weight.norm": np.array([1.0])})} if recorded else {}
    return StepRecord(number, {"loss": loss, **values}, table)


def test_a_fault_is_found_once_and_counted():
    heard = []
    judge = Judge(rules=[High()], listeners=[heard.append])

    for number in range(1, 6):
        judge.see(step(number, loss=9.0 if number > 2 else 1.0))

    (finding,) = judge.findings
    assert (finding.step, finding.count) == (3, 3)
    assert len(heard) == 1
    assert not judge.healthy


def test_rules_have_their_own_thresholds():
    judge = Judge(rules=[High(limit=10.0)])

    judge.see(step(1, loss=9.0))

    assert judge.findings == []
    assert judge.healthy


def test_between_records_rules_are_asked_now_and_then():
    asked = []

    @dataclass(frozen=True, kw_only=True)
    class Asked(High):
        def check(self, history):
            asked.append(history.step)
            return iter(())

    judge = Judge(rules=[Asked()], every=10)
    for number in range(1, 25):
        judge.see(step(number, recorded=number == 7))
    judge.see(step(25, recorded=False, **{"step.skipped": 1.0}))

    assert asked == [7, 10, 20, 25]


def test_a_rule_that_fails_is_left_out_with_one_warning():
    judge = Judge(rules=[Fails(), High()])

    with pytest.warns(UserWarning, match="XX002 fails failed and is left out from now on"):
        judge.see(step(1, loss=9.0))
    judge.see(step(2, loss=9.0))  # a second warning would be an error

    assert [f.code for f in judge.findings] == ["XX001"]


def test_advice_stands_apart():
    judge = Judge(rules=[])
    judge.add(High().finding(what="mild", severity=Severity.ADVICE))

    assert judge.findings == []
    assert [f.what for f in judge.advice] == ["mild"]
    assert judge.healthy
    assert len(judge.all_findings) == 1


def test_the_place_of_a_value_that_is_not_finite_becomes_a_finding():
    judge = Judge(rules=[NonfiniteActivation()])

    judge.see_source(7, NonfiniteSource(kind="activation", site="blocks.2", row=3, num_rows=1))

    (finding,) = judge.findings
    assert (finding.code, finding.site, finding.step) == ("TT207", "blocks.2", 7)
    assert "row 3" in finding.what


def test_a_place_whose_rule_is_not_asked_is_passed_over():
    judge = Judge(rules=[])

    judge.see_source(7, NonfiniteSource(kind="activation", site="blocks.2"))

    assert judge.findings == []


def test_what_was_found_survives_and_is_not_announced_again():
    judge = Judge(rules=[High()])
    judge.see(step(1, loss=9.0))
    heard = []
    other = Judge(rules=[High()], listeners=[heard.append])

    other.load_state_dict(judge.state_dict())
    other.see(step(2, loss=9.0))

    (finding,) = other.findings
    assert (finding.step, finding.count) == (1, 2)
    assert heard == []


def test_findings_are_noted_where_the_report_looks(tmp_path):
    finding = High().finding(what="the loss is high", step=3, cause="steps too long", fix="slower")
    writer = RunWriter(tmp_path / "run", info={})
    writer.append("steps", 3, {"loss": np.array([1.0])})

    note_finding(writer, finding)
    writer.close()

    (event,) = load_run(tmp_path / "run").events()
    assert event["kind"] == "finding"
    assert (event["code"], event["step"], event["level"]) == ("XX001", 3, "warn")
    assert Finding.from_dict(event["finding"]) == finding
    assert (event["what"], event["why"], event["fix"]) == (
        "the loss is high", "steps too long", "slower"
    )  # fmt: skip
