import pytest

from trimtab.errors import ConfigError
from trimtab.findings._selectors import check_selector, longest_match, nearest, resolve


@pytest.mark.parametrize(
    ("selector", "code"),
    [
        ("TT201", "TT201"),
        (" tt201 ", "TT201"),
        ("dead-units", "TT201"),
        ("Dead-Units", "TT201"),
        ("tt7", "TT7"),
        ("tt", "TT"),
        ("no-such", "no-such"),
        ("", ""),
    ],
)
def test_resolves(rules, selector, code):
    assert resolve(selector) == code


def test_the_longest_one_that_names_the_code(rules):
    assert longest_match(["TT", "TT7", "TT2"], "TT701") == 3
    assert longest_match(["clip-before-unscale"], "TT701") == 5
    assert longest_match(["TT2", "other"], "TT701") == -1
    assert longest_match([], "TT701") == -1


@pytest.mark.parametrize("selector", ["TT201", "dead-units", "TT", "TT7", "tt70", "TT5"])
def test_takes_what_names_rules(rules, selector):
    check_selector(selector, "select")


@pytest.mark.parametrize(
    ("selector", "hint"),
    [
        ("TT703", "Did you mean 'TT70"),
        ("dead-unit", "Did you mean 'dead-units'?"),
        ("TT7x", "Did you mean 'TT7"),
        ("ZZ", "'trimtab explain --all' lists them all."),
        ("", "'trimtab explain --all' lists them all."),
        ("dead units", "Did you mean 'dead-units'?"),
    ],
)
def test_refuses_what_names_none(all_loaded, selector, hint):
    with pytest.raises(ConfigError) as raised:
        check_selector(selector, "ignore")

    message = str(raised.value)
    assert message.startswith(f"ignore has {selector!r}, which is neither a rule's code, ")
    assert hint in message


def test_trusts_until_all_rules_are_loaded(rules, registry):
    registry.pop("TT001")  # the only one of its scope

    check_selector("TT999", "select")
    check_selector("not-loaded", "select")
    with pytest.raises(ConfigError, match="select has 'dead units'"):
        check_selector("dead units", "select")


def test_nearest():
    assert nearest("slect", ["select", "ignore"]) == (
        "Did you mean 'select'? Known are: ignore, select."
    )
    assert nearest("zz", ["select", "ignore"]) == "Known are: ignore, select."
