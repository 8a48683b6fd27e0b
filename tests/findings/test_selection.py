import sys

import pytest

from trimtab.errors import ConfigError
from trimtab.findings import Selection, registered
from trimtab.findings._selection import configure


def codes(selection):
    return [code for code in registered() if selection.allows(code)]


@pytest.mark.parametrize(
    ("select", "ignore", "expected"),
    [
        ([], [], ["TT001", "TT201", "TT301", "TT420", "TT701", "TT702"]),
        (["TT7"], [], ["TT701", "TT702"]),
        (["TT7", "dead-units"], ["TT702"], ["TT201", "TT701"]),
        ([], ["TT7", "loss-spike"], ["TT001", "TT201", "TT420"]),
        (["TT701"], ["TT7"], ["TT701"]),
        (["TT7"], ["TT"], ["TT701", "TT702"]),
        (["TT701"], ["clip-before-unscale"], []),
        (["tt7"], ["tt702"], ["TT701"]),
    ],
)
def test_the_longer_code_decides(rules, select, ignore, expected):
    selection = Selection(select=select, ignore=ignore)

    assert codes(selection) == expected
    assert [r.code for r in selection.rules("source")] == [c for c in expected if c > "TT5"]


def test_a_rule_can_be_asked_for_by_name(rules):
    assert Selection(select=("TT2",)).allows("dead-units")
    assert not Selection(select=("TT2",)).allows("loss-spike")


def test_rules_have_their_thresholds(rules):
    selection = Selection(settings={"dead-units": {"max_share": 1, "kinds": ["gelu"]}})

    dead, spike = selection.rules("run")

    assert dead == rules.DeadUnits(max_share=1.0, kinds=("gelu",))
    assert type(dead.max_share) is float
    assert spike == rules.LossSpike()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"select": "TT7"}, 'select must be a list of texts such as ["TT2", "loss-spike"], '),
        ({"ignore": ["TT7", 3]}, "ignore must be a list of texts"),
        ({"plugins": "rules"}, 'plugins must be a list of texts such as ["my_rules"], got'),
        ({"plugins": ["no_such_module"]}, "The plugin 'no_such_module' cannot be imported"),
        ({"select": ["TT9"]}, "select has 'TT9', which is neither a rule's code, nor"),
        ({"ignore": ["loss-spikes"]}, "Did you mean 'loss-spike'?"),
        ({"settings": 3}, "rules must be a table with a table for each rule, got 3."),
        ({"settings": {"TT201": 3}}, "rules.TT201 must be a table of thresholds, got 3."),
        ({"settings": {"TT209": {}}}, "rules has 'TT209', which is neither"),
        ({"settings": {"TT7": {}}}, "rules has 'TT7', but thresholds belong to one rule."),
        ({"settings": {"TT70": {}}}, "rules has 'TT70', but thresholds belong to one rule."),
        (
            {"settings": {"TT201": {}, "dead-units": {}}},
            "rules has 'TT201' and 'dead-units', which are the same rule. Join them.",
        ),
        (
            {"settings": {"TT201": {"max_shre": 1}}},
            "rules.TT201 has an unknown threshold 'max_shre'. Did you mean 'max_share'? Known are: "
            "kinds, limit, max_share, mode, patience, strict.",
        ),
        ({"settings": {"TT301": {"x": 1}}}, "unknown threshold 'x'. The rule has none."),
        (
            {"settings": {"TT201": {"patience": 0.5}}},
            "rules.TT201.patience must be a whole number, got 0.5.",
        ),
        (
            {"settings": {"TT201": {"code": "TT1"}}},
            "rules.TT201 has an unknown threshold 'code'.",
        ),
    ],
)
def test_refuses_what_cannot_be(all_loaded, fields, message):
    with pytest.raises(ConfigError) as raised:
        Selection(**fields)

    assert message in str(raised.value)


def test_thresholds_of_a_rule_that_comes_later(rules, registry):
    late = registry.pop("TT001")
    selection = Selection(settings={"TT001": {"x": 1}})  # nobody knows it yet
    registry["TT001"] = late

    with pytest.raises(ConfigError, match=r"rules\.TT001 has an unknown threshold 'x'"):
        selection.rules("live")


def test_override(all_loaded):
    project = Selection(select=["TT2"], ignore=["TT7", "TT301"], settings={"TT201": {"limit": 2}})

    assert project.override() == project
    changed = project.override(select=["loss-spike", "TT7", "TT201"], ignore=["TT702"])
    assert changed.ignore == ("TT702",)
    assert changed.settings == project.settings
    assert codes(changed) == ["TT201", "TT301", "TT701"]
    assert codes(project.override(ignore=["TT201"])) == []
    with pytest.raises(ConfigError, match="select has 'TT9'"):
        project.override(select=["TT9"])


PROJECT = """
[tool.trimtab]
select = ["TT2", "TT7"]
ignore = ["TT702"]

[tool.trimtab.rules.TT201]
max_share = 0.2
"""


def test_from_pyproject(rules, tmp_path):
    (tmp_path / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (tmp_path / "a").mkdir()

    selection = Selection.from_pyproject(tmp_path / "a")

    assert selection == Selection(
        select=("TT2", "TT7"), ignore=("TT702",), settings={"TT201": {"max_share": 0.2}}
    )
    assert selection.rules("run") == [rules.DeadUnits(max_share=0.2)]


def test_from_pyproject_without_a_table(rules, tmp_path):
    (tmp_path / ".git").mkdir()

    assert Selection.from_pyproject(tmp_path) == Selection()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slect = ['TT7']", "has an unknown key 'slect'. Did you mean 'select'? Known are:"),
        ("select = ['TT79']", "select has 'TT79', which is neither"),
        ("ignore = 'TT7'", "ignore must be a list of texts"),
        ("rules.TT201.max_share = 'big'", "rules.TT201.max_share must be a number, got 'big'."),
        ("plugins = ['no_such_module']", "The plugin 'no_such_module' cannot be imported"),
    ],
)
def test_names_the_file(all_loaded, tmp_path, text, message):
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[tool.trimtab]\n{text}\n", encoding="utf-8")

    with pytest.raises(ConfigError) as raised:
        Selection.from_pyproject(tmp_path)

    assert str(raised.value).startswith(f"{path}: [tool.trimtab] {message}")


def test_plugins_of_the_project_are_known_to_it(rules, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        "[tool.trimtab]\nplugins = ['own_rules']\nselect = ['OWN']\n", encoding="utf-8"
    )
    (tmp_path / "own_rules.py").write_text(
        "from trimtab.findings import Rule, register\n"
        "class Own(Rule):\n"
        "    '''Ours.'''\n"
        "    code, name, symptom, scope = 'OWN001', 'own-fault', 'nan', 'run'\n"
        "register(Own)\n",
        encoding="utf-8",
    )
    try:
        selection = Selection.from_pyproject(tmp_path)
    finally:
        sys.modules.pop("own_rules", None)

    assert [rule.name for rule in selection.rules("run")] == ["own-fault"]
    assert selection.plugins == ("own_rules",)


def test_configure_keeps_what_is_not_named(rules):
    assert configure(rules.DeadUnits, {}) == rules.DeadUnits()
    assert configure(rules.DeadUnits, {"limit": 3, "mode": "worst"}) == rules.DeadUnits(
        limit=3.0, mode="worst"
    )
