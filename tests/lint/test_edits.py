"""Changes of text."""

import ast

from trimtab.findings import Finding, Fix
from trimtab.lint import Source, apply_fixes
from trimtab.lint._edits import (
    delete_line,
    edit_fix,
    edits_of,
    insert_after,
    insert_after_node,
    insert_before,
    is_alone,
    replace_node,
    same_block,
)

TEXT = "if a:\n    b = 1  # one\n    c(é, 2); d()\nelse:\n    e()"


def finding(*edits, line=1):
    remedy = Fix(action="edit", args={"edits": [list(e) for e in edits]}) if edits else None
    return Finding(
        code="TT701",
        name="x",
        severity="error",
        symptom="nan",
        what="x",
        file="a.py",
        line=line,
        column=1,
        remedy=remedy,
    )


def body(source):
    return source.tree.body[0].body


def changed(text, *edits):
    return apply_fixes(text, [finding(*edits)])


def test_lines_are_inserted_with_the_statement_s_indentation():
    source = Source(TEXT)

    assert changed(TEXT, insert_before(source, body(source)[0], "z()")).startswith(
        "if a:\n    z()\n    b = 1  # one\n"
    )
    assert "    b = 1  # one\n    z()\n    c(" in changed(
        TEXT, insert_after(source, body(source)[0], "z()")
    )


def test_a_line_goes_behind_a_last_line_without_an_end():
    source = Source(TEXT)
    last = source.tree.body[0].orelse[0]

    assert changed(TEXT, insert_after(source, last, "z()")).endswith("    e()\n    z()")


def test_line_ends_of_windows_are_kept():
    text = "for x in y:\r\n    a()\r\n    b()\r\n"
    source = Source(text)

    assert changed(text, insert_before(source, body(source)[1], "z()")) == (
        "for x in y:\r\n    a()\r\n    z()\r\n    b()\r\n"
    )


def test_statements_that_share_a_line_are_left_alone():
    source = Source(TEXT)
    c, d = body(source)[1:]

    assert is_alone(source, body(source)[0])
    assert not is_alone(source, c)
    assert not is_alone(source, d)
    assert insert_before(source, d, "z()") is None
    assert edit_fix(insert_before(source, d, "z()")) is None


def test_columns_are_counted_in_characters():
    source = Source(TEXT)
    call = next(source.all(ast.Call))

    assert replace_node(source, call.args[1], "3") == (3, 10, 3, 11, "3")
    assert "c(é, 3); d()" in changed(TEXT, replace_node(source, call.args[1], "3"))
    assert "c(é, 2).x; d()" in changed(TEXT, insert_after_node(source, call, ".x"))


def test_a_line_is_deleted_unless_it_is_the_block_s_only_one():
    source = Source(TEXT)

    assert changed(TEXT, delete_line(source, body(source)[0])).startswith("if a:\n    c(é")
    assert delete_line(source, source.tree.body[0].orelse[0]) is None


def test_same_block():
    source = Source(TEXT)
    b, c, _ = body(source)

    assert same_block(source, b, c.value.args[0])
    assert not same_block(source, b, source.tree.body[0].orelse[0])


def test_edits_that_overlap_are_left_out():
    text = "abc = 1\n"
    first = finding((1, 1, 1, 4, "x"), line=1)
    second = finding((1, 2, 1, 6, "y"), line=2)

    assert apply_fixes(text, [second, first]) == "x = 1\n"


def test_the_same_insertion_is_made_once():
    text = "a()\n"

    assert apply_fixes(text, [finding((1, 1, 1, 1, "z()\n"))] * 2) == "z()\na()\n"


def test_what_would_be_no_python_is_left_out():
    text = "abc = 1\n"

    assert apply_fixes(text, [finding((1, 1, 1, 4, "(")), finding((1, 7, 1, 8, "2"))]) == (
        "abc = 2\n"
    )


def test_findings_without_a_remedy_change_nothing():
    assert apply_fixes("a()\n", [finding()]) == "a()\n"
    assert edits_of(finding()) == []
