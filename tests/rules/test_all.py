from pathlib import Path

import pytest

import trimtab.rules
from trimtab.errors import ConfigError
from trimtab.findings import Selection, registered
from trimtab.rules import RunRule, load_rules, run_rules


def test_every_file_is_in_the_catalogue():
    files = Path(trimtab.rules.__file__).parent.glob("tt*.py")

    load_rules()

    assert {f.stem[:5].upper() for f in files} <= set(registered("run"))


def test_rules_can_be_asked():
    assert all(isinstance(rule, RunRule) for rule in run_rules())
    assert len(run_rules()) > 30


def test_a_selection_leaves_some_out_and_sets_thresholds():
    chosen = run_rules(Selection(select=("TT201",), settings={"TT201": {"max_share": 0.25}}))

    assert [rule.code for rule in chosen] == ["TT201"]
    assert chosen[0].max_share == 0.25


def test_an_unknown_threshold_is_refused():
    with pytest.raises(ConfigError, match="TT201"):
        run_rules(Selection(settings={"TT201": {"nonsense": 1}}))
