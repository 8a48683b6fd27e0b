import json
import math

from trimtab.repair import Attempt, Edit, RepairResult


def result(**fields):
    given = {
        "repaired": True,
        "healthy_before": False,
        "setup": None,
        "metric": 0.9,
        "edits": [Edit(what="learning rate", before="1", after="0.1", advice="use lr=0.1")],
        "advice": ["use lr=0.1", "two\nlines"],
        "findings": [],
        "attempts": [Attempt(name="as it is", steps=100, value=0.125, good=False)],
        "extra": 0.5,
    }
    return RepairResult(**{**given, **fields})


def test_text():
    assert str(result()) == (
        "repaired, with 0.50 times the training on top\n"
        "  change  learning rate: 1 -> 0.1\n"
        "  advice  use lr=0.1\n"
        "  advice  two\n"
        "          lines"
    )
    assert str(result(repaired=False)).startswith("not repaired, with 0.50 times")
    assert str(result(repaired=False, healthy_before=True)) == "healthy: nothing was changed"


def test_healthy_is_either():
    assert result().healthy
    assert result(repaired=False, healthy_before=True).healthy
    assert not result(repaired=False).healthy


def test_dict_is_json():
    data = json.loads(json.dumps(result(metric=math.nan).to_dict()))
    assert data["metric"] is None
    assert data["edits"][0]["after"] == "0.1"
    assert data["attempts"] == ["as it is: 0.125 after 100 steps, not good"]
    assert result().diff == "learning rate: 1 -> 0.1"


def test_an_attempt_that_could_not_be_run_says_why():
    failed = Attempt(
        name="use_float32", steps=0, value=math.nan, good=False, error="RuntimeError: no"
    )
    assert str(failed) == "use_float32: failed after 0 steps with RuntimeError: no"
