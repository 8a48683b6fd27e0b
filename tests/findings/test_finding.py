import json

import pytest

from trimtab.findings import Evidence, Finding, Severity, Symptom
from trimtab.findings._finding import sentence


def test_goes_through_json_and_back(finding, source_finding):
    for each in (finding, source_finding):
        again = Finding.from_dict(json.loads(json.dumps(each.to_dict())))

        assert again == each


def test_has_what_programs_ask_for(finding):
    data = finding.to_dict()

    assert {
        "code",
        "name",
        "severity",
        "symptom",
        "site",
        "file",
        "line",
        "message",
        "fix",
    } <= set(data)
    assert data["message"] == (
        "212 of 512 units were zero on every sample. No gradient reached them for 50 steps. "
        "Fix: lower this module's learning rate, or use GELU in place of ReLU."
    )


def test_passes_over_keys_that_it_does_not_know(source_finding):
    assert Finding.from_dict(source_finding.to_dict() | {"future": 1}) == source_finding


def test_texts_become_members(finding):
    made = finding.with_(severity="error", symptom="nan")

    assert (made.severity, made.symptom) == (Severity.ERROR, Symptom.NAN)
    with pytest.raises(ValueError, match="'fatal' is not a valid Severity"):
        finding.with_(severity="fatal")


def test_symptoms_are_its_own_and_those_that_followed(finding):
    assert finding.symptoms == {Symptom.DEAD_UNITS, Symptom.LOSS_SPIKE}


def test_one_line(finding, source_finding):
    assert str(finding) == (
        "TT201 dead-units at blocks.3.act, step 1200: 212 of 512 units were zero on every sample"
    )
    assert str(source_finding).startswith("TT701 clip-before-unscale at train loop.py:12:5: ")
    assert source_finding.with_(column=None).place == "train loop.py:12"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.41421, "x 0.414, normal 1"),
        (float("nan"), "x nan, normal 1"),
        (65536, "x 65,536, normal 1"),
        ("none", "x none, normal 1"),
    ],
)
def test_evidence_reads_well(value, text):
    assert str(Evidence(name="x", value=value, normal="1")) == text


def test_severities_are_in_order():
    assert [s.rank for s in (Severity.ERROR, Severity.WARNING, Severity.ADVICE)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("the loss jumped", "The loss jumped."),
        (" is it so? ", "Is it so?"),
        ("well, it is", "Well, it is."),
        ("nan", "Nan."),
        ("loss.backward() was called twice", "loss.backward() was called twice."),
        ("bf16 keeps three digits", "bf16 keeps three digits."),
        ("`x` is new", "`x` is new."),
        ("3 units", "3 units."),
    ],
)
def test_sentence(text, whole):
    assert sentence(text) == whole
