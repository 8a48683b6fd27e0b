import json
import math

import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.guard._change import Change
from trimtab.guard._incident import Experiment, Incident


def finding(**changes):
    return Finding(
        code="TT512",
        name="bad-batch",
        severity=Severity.ERROR,
        symptom=Symptom.LOSS_SPIKE,
        step=151,
        what="the loss rose to 913",
        evidence=(Evidence(name="loss", value=913.0, normal="<= 2.3"),),
        cause="the batch is far from all others",
        fix="look at the batch",
        remedy=Fix(action="skip_batch", args={"steps": [151]}),
    ).with_(**changes)


def experiment(**changes):
    values = {
        "change": Change(without=frozenset({151}), lr=0.5),
        "steps": (150, 151),
        "losses": (1.5, math.inf),
        "norms": (0.5, math.nan),
        "probe": math.nan,
        "healed": False,
        "reproduced": None,
        "seconds": 0.25,
        "note": "out of time",
    }
    return Experiment(**values | changes)


def incident(**changes):
    values = {
        "step": 151,
        "detected": 153,
        "kind": "rollback",
        "finding": finding(),
        "action": "Went back to step 140.",
        "limits": {"loss_level": 1.5, "loss_limit": math.inf},
        "signals": {"step": [150.0, 151.0], "loss": [1.5, math.nan]},
        "experiments": (experiment(), experiment(change=Change(), reproduced=True)),
        "snapshot_step": 140,
        "lost_steps": 13,
        "suspects": {"rows": [3], "row_losses": [1.5, math.inf], "column": "text"},
    }
    return Incident(**values | changes)


def test_comes_back_from_strict_json():
    before = incident()

    text = json.dumps(before.to_dict(), allow_nan=False)
    after = Incident.from_dict(json.loads(text))

    assert json.dumps(after.to_dict()) == text
    assert after.finding == before.finding
    assert after.experiments[0].change == Change(without=frozenset({151}), lr=0.5)
    assert after.experiments[0].losses == (1.5, math.inf)
    assert math.isnan(after.experiments[0].norms[1])
    assert math.isnan(after.signals["loss"][1])
    assert after.limits == {"loss_level": 1.5, "loss_limit": math.inf}
    assert after.suspects == {"rows": [3], "row_losses": [1.5, math.inf], "column": "text"}


def test_without_odd_numbers_it_is_equal():
    plain = incident(
        experiments=(experiment(losses=(1.0, 2.0), norms=(1.0, 2.0), probe=1.0),),
        signals={"step": [1.0], "loss": [2.0]},
    )

    assert Incident.from_dict(plain.to_dict()) == plain


def test_numbers_of_torch_become_plain():
    data = incident(suspects={"row": torch.tensor(3), "loss": torch.tensor(float("nan"))}).to_dict()

    assert data["suspects"] == {"row": 3, "loss": "nan"}


def test_unknown_keys_of_a_later_version_are_passed_over():
    data = incident().to_dict() | {"later": 1}
    data["experiments"][0]["later"] = 2

    assert Incident.from_dict(data).step == 151


def test_says_a_change_in_words():
    words = experiment().to_dict()["words"]

    assert words == "without the data of step 151, learning rate × 0.5"


def test_is_said_in_one_line():
    assert str(incident()) == (
        "Incident at step 151: The loss rose to 913. The batch is far from all others. "
        "Fix: look at the batch. Went back to step 140."
    )


def test_names_its_folder():
    assert incident().name == "step-00000151"


def test_refuses_an_unknown_kind():
    with pytest.raises(ConfigError) as caught:
        incident(kind="ignored")

    assert str(caught.value) == (
        "kind of an incident must be one of skip, rollback, stop, observed, got 'ignored'."
    )
