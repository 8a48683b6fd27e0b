"""Held against what SARIF 2.1.0 requires: sections of the specification are named."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from trimtab.findings import Evidence, Fix, to_sarif
from trimtab.findings import _sarif as sarif


@pytest.fixture
def convert(rules):
    """Return the one run of a log, after a look at its frame."""

    def convert(findings, asked=()):
        log = json.loads(to_sarif(findings, asked), parse_constant=pytest.fail)
        assert set(log) == {"$schema", "version", "runs"}
        assert log["version"] == "2.1.0"  # 3.13.2
        (run,) = log["runs"]
        check(run)
        return run

    return convert


def check(run):
    """Check what the specification demands of every run."""
    driver = run["tool"]["driver"]  # 3.18.2
    assert driver["name"]  # 3.19.8
    ids = [rule["id"] for rule in driver["rules"]]  # 3.49.3
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]  # 3.12.3
        assert rule["defaultConfiguration"]["level"] in {"error", "warning", "note"}  # 3.50.3
    for result in run["results"]:
        assert result["message"]["text"]  # 3.27.11
        assert result["level"] in {"none", "note", "warning", "error"}  # 3.27.10
        assert ids[result["ruleIndex"]] == result["ruleId"]  # 3.27.6
        assert all(isinstance(v, str) for v in result["partialFingerprints"].values())  # 3.27.17
        for location in [*result.get("locations", ()), *result.get("relatedLocations", ())]:
            assert {"physicalLocation", "logicalLocations"} & set(location)
            region = location.get("physicalLocation", {}).get("region", {"startLine": 1})
            assert all(n >= 1 for n in region.values())  # 3.30.5, 3.30.6


def test_a_finding_in_a_file(convert, source_finding):
    run = convert([source_finding])

    (result,) = run["results"]
    assert run["columnKind"] == "unicodeCodePoints"
    assert (result["ruleId"], result["level"]) == ("TT701", "warning")
    assert result["message"]["text"] == (
        "Gradients are clipped before they are unscaled. Fix: call scaler.unscale_(optimizer) "
        "first."
    )
    assert result["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "train%20loop.py", "uriBaseId": "%SRCROOT%"},
                "region": {"startLine": 12, "startColumn": 5},
            },
            "logicalLocations": [
                {"fullyQualifiedName": "train_step", "name": "train_step", "kind": "function"}
            ],
        }
    ]
    assert {"fixes", "occurrenceCount", "relatedLocations"} & set(result) == set()


def test_a_repair(convert, source_finding):
    remedy = Fix(action="edit", args={"edits": [[12, 1, 12, 1, "    scaler.unscale_(opt)\n"]]})

    (result,) = convert([source_finding.with_(remedy=remedy)])["results"]

    assert result["fixes"] == [
        {
            "description": {"text": "call scaler.unscale_(optimizer) first"},
            "artifactChanges": [
                {
                    "artifactLocation": {"uri": "train%20loop.py", "uriBaseId": "%SRCROOT%"},
                    "replacements": [
                        {
                            "deletedRegion": {
                                "startLine": 12,
                                "startColumn": 1,
                                "endLine": 12,
                                "endColumn": 1,
                            },
                            "insertedContent": {"text": "    scaler.unscale_(opt)\n"},
                        }
                    ],
                }
            ],
        }
    ]
    assert "region" in result["locations"][0]["physicalLocation"]


def test_a_finding_in_a_module(convert, finding):
    (result,) = convert([finding])["results"]

    assert "fixes" not in result  # its remedy changes no text
    assert result["locations"] == [
        {
            "logicalLocations": [
                {"fullyQualifiedName": "blocks.3.act", "name": "act", "kind": "module"}
            ]
        }
    ]
    others = [e["logicalLocations"][0]["fullyQualifiedName"] for e in result["relatedLocations"]]
    assert others == ["blocks.4.act", "blocks.5.act"]
    assert result["occurrenceCount"] == 12
    properties = result["properties"]
    assert (properties["step"], properties["symptom"]) == (1200, "dead_units")
    assert [c["code"] for c in properties["consequences"]] == ["TT301"]


def test_a_finding_of_the_run_as_a_whole(convert, finding):
    (result,) = convert([finding.with_(site="", also=())])["results"]

    assert "locations" not in result


def test_a_finding_without_a_line(convert, source_finding):
    (result,) = convert([source_finding.with_(line=None, column=None)])["results"]

    assert "region" not in result["locations"][0]["physicalLocation"]


def test_an_absolute_path(convert, source_finding):
    path = Path.cwd() / "train.py"

    (result,) = convert([source_finding.with_(file=str(path))])["results"]

    assert result["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": path.as_uri()}


@pytest.mark.parametrize(
    ("severity", "level"), [("error", "error"), ("warning", "warning"), ("advice", "note")]
)
def test_levels(convert, finding, severity, level):
    assert convert([finding.with_(severity=severity)])["results"][0]["level"] == level


def test_rules_are_described(convert, rules, source_finding):
    run = convert([source_finding], [rules.DeadUnits(), rules.NoDocstring])

    driver = run["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("trimtab", version("trimtab"))
    bare, dead, clip = driver["rules"]
    assert [r["id"] for r in (bare, dead, clip)] == ["TT001", "TT201", "TT701"]
    assert dead["shortDescription"]["text"] == "Units are zero on every sample, step after step."
    assert dead["fullDescription"]["text"] == (
        "Units are zero on every sample, step after step.\n\nA ReLU that never fires gets no "
        "gradient, so training cannot revive it.\n\nIt is lost."
    )
    assert dead["help"]["text"] == "Lower the learning rate."
    assert dead["help"]["markdown"].startswith("# TT201 dead-units\n")
    assert dead["helpUri"].endswith("/rules/tt201.md")
    assert dead["properties"] == {"problem.severity": "warning", "tags": ["dead_units", "run"]}
    assert bare["shortDescription"]["text"] == "No-docstring."
    assert bare["properties"]["problem.severity"] == "recommendation"


def test_a_rule_that_is_not_registered(convert, finding):
    (rule,) = convert([finding.with_(code="ZZ001", name="foreign")])["tool"]["driver"]["rules"]

    assert rule == {
        "id": "ZZ001",
        "name": "foreign",
        "shortDescription": {"text": "foreign"},
        "defaultConfiguration": {"level": "warning"},
    }


def test_addresses_come_from_the_package(convert, rules, monkeypatch, finding):
    class Metadata(dict):
        def get_all(self, name):
            return {"Project-URL": ["Documentation, https://example.org/docs/"]}[name]

    monkeypatch.setattr(sarif, "metadata", lambda name: Metadata(Version="1.2"))
    sarif._about.cache_clear()
    try:
        driver = convert([finding])["tool"]["driver"]
    finally:
        sarif._about.cache_clear()

    assert driver["informationUri"] == "https://example.org/docs"
    assert driver["rules"][0]["helpUri"] == "https://example.org/docs/rules/tt201.html"


def fingerprints(run):
    return [r["partialFingerprints"][sarif.FINGERPRINT] for r in run["results"]]


def test_a_fingerprint_survives_moved_lines_and_other_numbers(convert, source_finding, finding):
    moved = source_finding.with_(line=99, column=1)
    other = finding.with_(what="300 of 512 units were zero on every sample", step=3, count=1)

    assert fingerprints(convert([source_finding])) == fingerprints(convert([moved]))
    assert fingerprints(convert([finding])) == fingerprints(convert([other]))


@pytest.mark.parametrize(
    "change", [{"file": "b.py"}, {"site": "other"}, {"what": "otherwise"}, {"code": "TT702"}]
)
def test_a_fingerprint_tells_findings_apart(convert, source_finding, change):
    first, second = fingerprints(convert([source_finding, source_finding.with_(**change)]))

    assert first != second


def test_twins_have_fingerprints_of_their_own(convert, source_finding):
    first, second = fingerprints(convert([source_finding, source_finding.with_(line=40)]))

    assert first != second


def test_numbers_that_json_lacks(convert, finding):
    evidence = (Evidence(name="loss", value=float("nan"), normal="finite"),)

    (result,) = convert([finding.with_(evidence=evidence)])["results"]

    assert result["properties"]["evidence"][0]["value"] == "nan"


def test_nothing_was_found(convert):
    run = convert([])

    assert (run["results"], run["tool"]["driver"]["rules"]) == ([], [])
