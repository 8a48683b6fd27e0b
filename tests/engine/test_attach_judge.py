"""attach and the rules: what is found, where it goes, and what it leaves alone."""

import warnings

import pytest
import torch
from torch import nn

import trimtab
from trimtab.findings import Selection
from trimtab.signals import load_run


def train(steps=12, *, lr=1e-3, poison=None, **options):
    """Train a small network; `poison` is a step whose fourth example is NaN."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.4
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    options = {"out": None, "watch": 2} | options
    trim = trimtab.attach(model, optimizer, **options)
    for step in range(1, steps + 1):
        x = torch.randn(32, 6, generator=generator)
        y = x.sum(dim=1, keepdim=True)
        if step == poison:
            x[3] = torch.nan
        trim.loss((model(x) - y).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return trim, model


def test_a_healthy_run_hears_nothing():
    trim, _ = train(60)

    assert trim.findings == []
    trim.detach()


def test_a_bad_example_is_found_with_its_place():
    with pytest.warns(trimtab.StabilityWarning, match=r"TT508 nonfinite-input .*row 3"):
        trim, _ = train(poison=5)

    first = trim.findings[0]
    assert (first.code, first.step) == ("TT508", 5)
    assert "row 3 of the batch" in first.what
    trim.detach()


def test_findings_stand_in_the_run_folder_and_in_the_report(tmp_path):
    with pytest.warns(trimtab.StabilityWarning):
        trim, _ = train(poison=5, out=tmp_path / "run")
    page = trim.report()
    trim.detach()

    found = [e for e in load_run(tmp_path / "run").events() if e["kind"] == "finding"]
    assert "TT508" in [e["code"] for e in found]
    assert "nonfinite-input" in page.read_text(encoding="utf-8")


def test_a_recorded_run_knows_its_setup(tmp_path):
    trim, _ = train(out=tmp_path / "run")
    trim.detach()

    setup = trimtab.rules.Setup.from_dict(load_run(tmp_path / "run").info["setup"])
    assert [p.name for p in setup.params] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_nothing_is_judged_if_it_is_not_wanted():
    trim, _ = train(poison=5, judge=False)  # a warning would be an error

    assert trim.findings == []
    trim.detach()


def test_a_selection_says_which_rules_are_asked():
    trim, _ = train(poison=5, judge=Selection(select=("TT1",), ignore=("TT107",)))

    assert trim.findings == []
    trim.detach()


def test_judge_has_to_be_one_of_these():
    with pytest.raises(trimtab.ConfigError, match="judge must be True, False or a Selection, got"):
        train(judge="yes")


def test_judging_changes_no_number():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", trimtab.StabilityWarning)
        judged, model = train(40, poison=7)
        alone, other = train(40, poison=7, judge=False)

    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    judged.detach()
    alone.detach()


def test_what_was_found_survives_a_resume():
    with pytest.warns(trimtab.StabilityWarning):
        trim, _ = train(poison=5)
    state = trim.state_dict()
    trim.detach()

    other, _ = train(1)
    other.load_state_dict(state)

    assert [f.code for f in other.findings] == [f.code for f in trim.findings]
    other.detach()
