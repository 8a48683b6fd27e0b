import json
import math

import numpy as np
import pytest
import torch

from trimtab.diagnosis import Diagnosis, Outcome, Trial, diagnose
from trimtab.diagnosis._outcome import Probe
from trimtab.errors import ConfigError
from trimtab.findings import Evidence, Finding, Severity, Symptom
from trimtab.rules import History


def finding(**changes):
    given = {
        "code": "TT411",
        "name": "learning-rate-too-high",
        "severity": Severity.ERROR,
        "symptom": Symptom.DIVERGENCE,
        "what": "the run went astray by <far>",
        "step": 12,
        "evidence": (Evidence(name="share", value=math.nan, normal=">= 0.1"),),
        "cause": "too high",
        "fix": "lower it",
    }
    return Finding(**(given | changes))


OUTCOME = Outcome(None, None, None, [1.0])


def diagnosis(findings=(), advice=(), trials=()):
    return Diagnosis(
        findings=list(findings),
        advice=list(advice),
        history=History(),
        outcome=OUTCOME,
        trials=trials,
    )


def test_healthy_without_findings_even_with_advice():
    found = diagnosis(advice=[finding(severity=Severity.ADVICE)])

    assert found.healthy
    assert found.symptoms == set()
    assert str(found) == "healthy: nothing found"
    assert found.to_dict()["advice"][0]["code"] == "TT411"


def test_symptoms_are_those_of_consequences_too():
    effect = finding(code="TT303", symptom=Symptom.NAN)

    found = diagnosis([finding(consequences=(effect,))])

    assert not found.healthy
    assert found.symptoms == {Symptom.DIVERGENCE, Symptom.NAN}
    assert str(found).startswith("TT411 learning-rate-too-high, step 12\n")
    assert "lower it" in str(found)


def test_as_json():
    broke = Outcome(Probe(1, 1, True), Probe(math.nan, math.nan, False), 1.0, [1.0])
    trials = [
        Trial(name="one", kind="lr", factor=0.1, outcome=broke),
        Trial(
            name="two",
            kind="lr",
            factor=0.01,
            outcome=Outcome(broke.start, Probe(0.5, 1, True), 1.0, [1.0]),
        ),
    ]
    found = diagnosis([finding(evidence=(Evidence(name="s", value=np.float32(2), normal=""),))])

    text = json.dumps(found.to_dict(), allow_nan=False)
    broken = json.dumps(diagnosis([finding()], trials=trials).to_dict(), allow_nan=False)

    assert json.loads(text)["symptoms"] == ["divergence"]
    assert json.loads(text)["findings"][0]["evidence"][0]["value"] == 2.0
    assert json.loads(broken)["findings"][0]["evidence"][0]["value"] == "nan"
    assert json.loads(broken)["trials"] == [
        {"name": "one", "learned": "-inf"},
        {"name": "two", "learned": 0.5},
    ]


@pytest.fixture
def no_zero_grad(env):
    def body(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return diagnose(
        env.model, env.optimizer, env.loss_fn, env.pairs, steps=20, train_step=body, trials=False
    )


@pytest.mark.slow
def test_writes_a_page_that_shows_findings_and_signals(no_zero_grad, tmp_path):
    path = no_zero_grad.report(tmp_path / "page.html")

    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "page.html"
    first = no_zero_grad.findings[0]
    assert first.code == "TT420"
    for text in (first.code, first.name, first.what, first.fix, "gradient.norm"):
        assert text in page, text


def test_writes_a_page_without_a_single_step(env, tmp_path):
    def body(*args):
        raise ValueError("mine")

    found = diagnose(env.model, env.optimizer, env.loss_fn, env.pairs, steps=20, train_step=body)

    page = found.report(str(tmp_path / "page.html")).read_text(encoding="utf-8")
    assert found.findings[0].what in page


def test_a_page_that_cannot_be_written_is_refused(no_zero_grad, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("x")

    with pytest.raises((ConfigError, OSError)):
        no_zero_grad.report(blocked / "page.html")


def test_history_holds_what_was_measured(no_zero_grad):
    losses = no_zero_grad.history.series("loss").values

    assert list(losses) == pytest.approx(no_zero_grad.outcome.losses)
    assert len(losses) == 20
    assert torch.tensor(losses).isfinite().all()
