import base64
import json

import numpy as np

from trimtab.findings import find_rule
from trimtab.report._payload import flatten, make_payload
from trimtab.report._runs import RunData
from trimtab.rules import load_rules, note_finding
from trimtab.signals import RunWriter


def test_other_signals_of_a_step_have_charts(make_run):
    payload = make_payload([RunData.load(make_run())])
    assert [one["title"] for one in payload["others"]] == ["Step time", "Weight norm"]


def test_events_and_findings(tmp_path):
    writer = RunWriter(tmp_path / "run", info={})
    writer.append("steps", 0, {"loss": np.array([1.0])})
    for step in range(400):
        writer.event(step, "skipped_step", reason="NaN", norm=0.123456789, loss=float("nan"))
    finding = {"code": "TT201", "name": "dead-units", "site": "blocks.3.act", "fix": "use GELU"}
    writer.event(1200, "finding", **finding)
    writer.close()

    (run,) = make_payload([RunData.load(tmp_path / "run")])["runs"]

    assert run["events"][1] == {
        "step": 1,
        "kind": "skipped step",
        "text": "reason NaN, norm 0.123457, loss NaN",
    }
    assert (len(run["events"]), run["events_left_out"]) == (300, 100)
    assert run["findings"] == [
        {
            "title": "TT201 dead-units at blocks.3.act, step 1,200",
            "level": "warn",
            "details": [("fix", "use GELU")],
        }
    ]


def test_clipped_steps_are_a_share_of_each_point(make_run):
    data = RunData.load(make_run(num_steps=100))
    (run,) = make_payload([data])["runs"]
    clipped = np.frombuffer(base64.b64decode(run["series"]["clipped"]["y"]), "<f4")
    np.testing.assert_array_equal(clipped, data.steps.clipped)


def test_a_run_without_steps(tmp_path):
    RunWriter(tmp_path / "run", info={}).close()
    payload = make_payload([RunData.load(tmp_path / "run")])
    assert payload["maps"] == []
    assert payload["follow"] is None
    assert payload["runs"][0]["verdict"]["word"] == "No steps recorded"
    json.dumps(payload, allow_nan=False)


def test_settings_become_dotted_names():
    settings = {"optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]}, "seed": 0, "out": None}
    settings["groups"] = [{"lr": 0.1}, {"lr": 0.2}]
    assert flatten(settings) == [
        ("optimizer.lr", "0.001"),
        ("optimizer.betas", "0.9, 0.95"),
        ("seed", "0"),
        ("out", "None"),
        ("groups.0.lr", "0.1"),
        ("groups.1.lr", "0.2"),
    ]


def test_findings_of_rules_are_shown_by_cause(tmp_path):
    writer = RunWriter(tmp_path / "run", info={})
    writer.append("steps", 1, {"loss": np.array([1.0])})
    load_rules()
    for name, step in (("nonfinite-loss", 9), ("nonfinite-input", 5)):
        rule = find_rule(name)()
        note_finding(writer, rule.finding(what="x", step=step, site="s", cause="c", fix="f"))
    writer.close()

    (shown,) = make_payload([RunData.load(tmp_path / "run")])["runs"][0]["findings"]

    assert shown["title"] == "TT508 nonfinite-input at s, step 5"
    details = dict(shown["details"])
    assert details["led to"].startswith("TT303 nonfinite-loss at s, step 9")
    assert (details["why"], details["fix"]) == ("c", "f")
