"""The corpus of training programs that judges are measured on."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from trimtab.findings import Symptom

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from faults.causes import CAUSES  # noqa: E402
from faults.registry import Case, cases  # noqa: E402
from faults.sources import sources  # noqa: E402
from faults.summary import share, summarise  # noqa: E402
from faults.verdict import Said, Verdict, causes_named, damage_step, mark, train  # noqa: E402

CASES = cases()
FAULTS = [c for c in CASES.values() if not c.healthy]
HEALTHY = [c for c in CASES.values() if c.healthy]
SOURCES = sources()
KINDS = {
    "autoencoder",
    "binary",
    "classification",
    "cnn",
    "finetuning",
    "gan",
    "mlp",
    "multilabel",
    "regression",
    "rl",
    "rnn",
    "transformer",
}


@pytest.mark.filterwarnings("ignore")  # some of the faults are those that PyTorch warns of
@pytest.mark.parametrize("case", CASES.values(), ids=lambda c: c.name)
def test_program_builds_and_its_loop_runs(case):
    before = torch.get_rng_state()

    losses = train(case.setup(0), steps=3, seed=0)

    assert len(losses) == 3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mlp-dropout", "gpt-adamw", "reinforce", "gan"])
def test_program_is_the_same_for_the_same_seed(name):
    first, again, other = (train(CASES[name].setup(s), steps=3, seed=s) for s in (1, 1, 2))

    assert first == again
    assert first != other


def test_corpus_is_as_large_and_wide_as_is_claimed():
    assert len(FAULTS) >= 160
    assert len(HEALTHY) >= 80
    assert {c.kind for c in CASES.values()} == KINDS
    assert {c.kind for c in HEALTHY} == KINDS
    assert {s for c in FAULTS for s in c.symptoms} == set(Symptom)


def test_parts_are_about_equal():
    for group in (FAULTS, HEALTHY):
        count = Counter(c.part for c in group)
        assert set(count) == {"tune", "report", "fresh", "heldout"}
        assert min(count["tune"], count["report"]) >= 0.4 * (count["tune"] + count["report"])
        assert count["fresh"] >= 30
        assert count["heldout"] >= 20


@pytest.mark.parametrize("case", FAULTS, ids=lambda c: c.name)
def test_fault_has_all_that_it_is_judged_by(case):
    assert case.source
    assert case.causes
    assert case.causes <= set(CAUSES)
    assert case.twin in {c.name for c in HEALTHY}
    re.compile(case.site or "")


def test_every_cause_is_asked_for_somewhere():
    assert {c for case in FAULTS for c in case.causes} == set(CAUSES)


def a_fault(**changes):
    given = {
        "name": "a",
        "kind": "mlp",
        "source": "a study",
        "build": lambda g: None,
        "part": "tune",
        "symptoms": frozenset({Symptom.DIVERGENCE}),
        "causes": frozenset({"learning-rate-too-high"}),
        "site": "head",
    }
    return Case(**(given | changes))


def a_verdict(name="learning-rate-too-high", place="head", step=4, symptoms=("divergence",)):
    said = Said(name, causes_named(name), place, step, "Lower the learning rate.")
    return Verdict(list(symptoms), [said], 1.0)


def test_right_verdict_has_all_marks():
    marks = mark(a_fault(), a_verdict(), damage=9)

    assert (marks.symptom, marks.headline, marks.words, marks.named) == (True, True, True, True)
    assert (marks.place, marks.early, marks.false_alarm) == (True, True, None)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "dead-units"}, "headline"),
        ({"place": "stem"}, "place"),
        ({"step": 9}, "early"),
        ({"step": None}, "early"),
        ({"symptoms": ("nan",)}, "symptom"),
    ],
)
def test_wrong_verdict_loses_a_mark(changes, field):
    assert getattr(mark(a_fault(), a_verdict(**changes), damage=9), field) is False


def test_silence_is_right_for_a_healthy_run_only():
    healthy = a_fault(symptoms=frozenset(), causes=frozenset(), site=None)

    assert mark(healthy, Verdict(), None).false_alarm is False
    assert mark(healthy, a_verdict(), None).false_alarm is True
    assert mark(a_fault(), Verdict(), None).headline is False


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([2.0, 1.9, 1.8, 1.7, 1.6], None),
        ([2.0, 1.9, 1.8, 7.0, 1.6, 1.5], None),  # a spike from which it came back
        ([2.0, 1.9, 1.8, 7.0, 8.0, 9.0], 4),
        ([2.0] * 10 + [0.2] * 15 + [2.0] * 10, 26),  # from a level that it had reached
        ([0.1, -1.0, -9.0, -90.0], None),  # falling is no damage
        ([2.0, 1.9, float("nan"), float("nan")], 3),
        ([float("inf"), float("nan")], 1),
    ],
)
def test_damage_is_where_the_loss_is_lost_for_good(losses, step):
    assert damage_step(losses) == step


def test_summary_counts_what_applies():
    marks = mark(a_fault(), a_verdict(), damage=9)
    row = {
        "case": "a",
        "kind": "mlp",
        "part": "tune",
        "healthy": False,
        "seed": 0,
        "verdict": a_verdict().to_dict(),
        "marks": vars(marks),
    }

    figures = summarise([row])["tune"]

    assert figures["symptom"] == figures["early"] == (1, 1)
    assert figures["false_alarms"] == (0, 0)
    assert figures["median_lead"] == 5
    assert share([True, False, None]) == (1, 2)


def test_verdict_survives_json():
    assert Verdict.from_dict(a_verdict().to_dict()) == a_verdict()


def test_sources_are_programs_of_both_kinds():
    for source in SOURCES:
        compile(source.text, source.name, "exec")
        assert source.part in {"tune", "report"}

    assert sum(not s.healthy for s in SOURCES) >= 25
    assert sum(s.healthy for s in SOURCES) >= 25
    assert len({s.name for s in SOURCES}) == len(SOURCES)
