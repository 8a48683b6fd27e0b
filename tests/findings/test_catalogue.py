from dataclasses import replace

import pytest

from trimtab.errors import ConfigError
from trimtab.findings import catalogue, explain
from trimtab.findings._page import Page

DEAD = """\
TT201 dead-units

Units are zero on every sample,
step after step.

severity  warning
symptom   dead_units
looks at  the signals of a run
leads to  TT301 loss-spike

Why it matters
  A ReLU that never fires gets no gradient, so training
  cannot revive it.

  It is lost.

How it is measured
  Share of units with `activation.zero_fraction` 1.

Silent on
  Sparsity that moves between units.

Example
  x = 1
  if x:
      y = 2

What to do
  Lower the learning rate.

Thresholds
  patience   50         Steps to wait.
  max_share  0.1        Largest healthy share, of | all units.
  kinds      ('relu',)  Kinds of units.
  mode       mean       How it is joined.
  limit      None
  strict     False      Whether one unit is enough.
  [tool.trimtab.rules.TT201] in pyproject.toml changes them.

References
  Lu et al. 2019, arXiv:1903.06733.
"""

ALL = """\
Set-up
  TT001  no-docstring         advice

Activations
  TT201  dead-units           warning  Units are zero on every sample, step after step.

Loss
  TT301  loss-spike           error    The loss jumps.

Optimizer and precision
  TT420  wrong-loop           warning  A loop is wrong.

Source code
  TT701  clip-before-unscale  warning  Gradients are clipped before they are unscaled.
  TT702  cleared-early        warning  Gradients are cleared too early.
"""


@pytest.mark.parametrize("word", ["TT201", "dead-units"])
def test_explains_by_code_or_name(rules, word):
    assert explain(word) == DEAD


def test_shows_code_without_the_fault(rules):
    assert "Example\n  bad()\n\nWithout the fault\n  good()\n" in explain("TT701")


def test_says_what_brings_it_about(rules):
    assert "looks at  the signals of a run\ncomes of  TT201 dead-units\n" in explain("TT301")


def test_long_lines_are_wrapped(rules, monkeypatch):
    effects = tuple(rules.__dict__.values())[:4] * 2
    monkeypatch.setattr(Page, "of", lambda rule: replace(whole, leads_to=effects))
    whole = Page(
        rule=rules.LossSpike, summary="", sections={}, thresholds=(), leads_to=(), caused_by=()
    )

    lines = explain("TT301").splitlines()

    assert lines[5:7] == [
        "leads to  TT201 dead-units, TT301 loss-spike, TT001 no-docstring, TT420 wrong-loop,",
        "          TT201 dead-units, TT301 loss-spike, TT001 no-docstring, TT420 wrong-loop",
    ]
    assert max(map(len, lines)) <= 100


def test_there_is_no_such_rule(rules):
    with pytest.raises(ConfigError, match=r"Did you mean dead-units\?"):
        explain("dead-unit")


def test_the_list_of_all(rules):
    assert catalogue() == ALL


def test_the_list_of_none(registry):
    assert catalogue() == "\n"
