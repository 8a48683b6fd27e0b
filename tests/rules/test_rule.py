import pytest

from trimtab.rules import RunRule


def test_a_rule_has_to_judge():
    with pytest.raises(TypeError, match="check"):
        RunRule()


def test_it_is_asked_of_runs():
    assert RunRule.scope == "run"
