from trimtab.findings import index_page, page
from trimtab.findings._markdown import families

DEAD = r"""# TT201 dead-units

Units are zero on every sample,
step after step.

| severity | symptom | looks at |
| --- | --- | --- |
| warning | `dead_units` | the signals of a run |

## Why it matters

A ReLU that never fires gets no gradient, so training
cannot revive it.

It is lost.

## How it is measured

Share of units with `activation.zero_fraction` 1.

## Silent on

Sparsity that moves between units.

## Example

<!-- not run: the rule's own test runs it -->
```python
x = 1
if x:
    y = 2
```

## What to do

Lower the learning rate.

## Thresholds

`[tool.trimtab.rules.TT201]` in `pyproject.toml` changes them.

| name | default | meaning |
| --- | --- | --- |
| `patience` | `50` | Steps to wait. |
| `max_share` | `0.1` | Largest healthy share, of \| all units. |
| `kinds` | `('relu',)` | Kinds of units. |
| `mode` | `mean` | How it is joined. |
| `limit` | `None` |  |
| `strict` | `False` | Whether one unit is enough. |

## Related

It can lead to [TT301 loss-spike](tt301.md).

## References

Lu et al. 2019, arXiv:1903.06733.
"""


def test_a_page_with_all_that_a_page_can_have(rules):
    assert page(rules.DeadUnits) == DEAD


def test_a_page_of_a_rule_that_says_nothing(rules):
    assert page(rules.NoDocstring) == (
        "# TT001 no-docstring\n\n"
        "| severity | symptom | looks at |\n| --- | --- | --- |\n"
        "| advice | `no_learning` | model, optimizer and batch before the first step |\n\n"
        "## Example\n\n```text\n$ no python\n```\n"
    )


def test_code_without_the_fault(rules):
    blocks = page(rules.ClipFirst).partition("## Example\n\n")[2]

    assert blocks == (
        "<!-- not run: the rule's own test runs it -->\n```python\nbad()\n```\n\n"
        "## Without the fault\n\n"
        "<!-- not run: the rule's own test runs it -->\n```python\ngood()\n```\n"
    )


def test_what_brings_it_about(rules):
    assert "It can be brought about by [TT201 dead-units](tt201.md).\n" in page(rules.LossSpike)


def test_the_index_has_a_table_for_each_family(rules):
    text = index_page()

    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Rules",
        "## Set-up",
        "## Activations",
        "## Loss",
        "## Optimizer and precision",
        "## Source code",
    ]
    row = "| [TT201](tt201.md) | dead-units | warning | Units are zero on every sample, step after"
    assert row in text


def test_rules_of_others_come_last(rules, monkeypatch):
    monkeypatch.setattr(rules.ClipFirst, "code", "ACME001")
    from trimtab.findings import _rule

    _rule._REGISTRY["ACME001"] = _rule._REGISTRY.pop("TT701")

    assert list(families())[-1] == ("Further rules", [rules.ClipFirst])
