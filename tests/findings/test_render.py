import io
import json
import math

import numpy as np
import pytest
import torch

from trimtab.findings import Evidence, Finding, print_findings, render_text, summarise, to_json
from trimtab.findings._render import heading, plain

WHOLE = """\
TT201 dead-units at blocks.3.act, step 1200
  what      212 of 512 units were zero on every sample
  evidence  dead share 0.414, normal <= 0.1
            units 65,536, normal any
  why       no gradient reached them for 50 steps
  fix       lower this module's learning rate, or use GELU in place of ReLU
  also at   blocks.4.act, blocks.5.act
  seen      12 times
  led to    TT301 loss-spike, step 1240
"""


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def bare(finding):
    return finding.with_(evidence=(), cause="", fix="", also=(), count=1, consequences=())


def test_text(finding):
    assert render_text([finding]) == WHOLE


def test_paragraphs_with_a_line_between(finding, source_finding):
    source = (
        "TT701 clip-before-unscale at train loop.py:12:5 in train_step\n"
        "  what      gradients are clipped before they are unscaled\n"
        "  fix       call scaler.unscale_(optimizer) first\n"
    )
    assert render_text([finding, source_finding]) == f"{WHOLE}\n{source}"
    assert render_text([]) == ""


def test_consequences_are_a_tree(bare):
    third = bare.with_(code="TT303", name="nonfinite-loss", site="", step=None)
    second = bare.with_(code="TT101", name="exploding", step=1300, consequences=(third,))

    text = render_text([bare.with_(consequences=(second, third))])

    assert text.splitlines()[2:] == [
        "  led to    TT101 exploding at blocks.3.act, step 1300",
        "              TT303 nonfinite-loss",
        "            TT303 nonfinite-loss",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "b0"),
        (4, "b0, b1, b2, b3"),
        (5, "b0, b1, b2 and 2 more"),
        (2000, "b0, b1, b2 and 1,997"),
    ],
)
def test_many_sites_are_counted(bare, count, text):
    also = tuple(f"b{i}" for i in range(count))

    assert f"  also at   {text}" in render_text([bare.with_(also=also)])


def test_advice_is_told_from_faults(bare):
    assert "  advice    worth knowing; the run" in render_text([bare.with_(severity="advice")])
    assert "advice" not in render_text([bare])


def test_wraps_at_the_width(finding):
    lines = render_text([finding], width=40).splitlines()

    assert max(map(len, lines[1:])) <= 40
    assert lines[1:3] == ["  what      212 of 512 units were zero", "            on every sample"]
    unwrapped = " ".join(" ".join(line.split()) for line in lines)
    assert unwrapped == " ".join(WHOLE.split())


def test_lines_of_its_own_are_kept(bare):
    text = render_text([bare.with_(fix="write\n    loss.backward()\n\nhere")], width=60)

    assert text.splitlines()[2:] == [
        "  fix       write",
        "                loss.backward()",
        "",
        "            here",
    ]


@pytest.mark.parametrize(
    ("severity", "code"), [("error", "1;31"), ("warning", "1;33"), ("advice", "1;36")]
)
def test_colours(finding, severity, code):
    text = render_text([finding.with_(severity=severity)], colour=True)

    assert text.startswith(f"\x1b[{code}mTT201 dead-units at blocks.3.act, step 1200\x1b[0m\n")
    assert "  \x1b[2mwhy       \x1b[0mno gradient" in text


@pytest.mark.parametrize(
    ("severities", "text"),
    [
        ([], "No findings."),
        (["error"], "1 finding: 1 error."),
        (["warning", "error", "warning"], "3 findings: 1 error, 2 warnings."),
        (["advice"], "1 finding: 1 piece of advice."),
        (["advice", "advice"], "2 findings: 2 pieces of advice."),
    ],
)
def test_summary(finding, severities, text):
    assert summarise([finding.with_(severity=s) for s in severities]) == text


def test_prints_plain_text_where_there_is_no_terminal(finding):
    stream = io.StringIO()

    print_findings([finding], stream)

    assert stream.getvalue() == f"{WHOLE}\n1 finding: 1 warning.\n"


def test_prints_that_there_is_nothing():
    stream = io.StringIO()

    print_findings([], stream)

    assert stream.getvalue() == "No findings.\n"


def test_prints_for_a_terminal(finding, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()

    print_findings([finding], stream)

    coloured = render_text([finding], colour=True, width=50)
    assert stream.getvalue() == f"{coloured}\n1 finding: 1 warning.\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_unwanted(finding, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    stream = Terminal()

    print_findings([finding], stream)

    assert "\x1b" not in stream.getvalue()


def test_prints_what_the_encoding_lacks(bare):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")

    print_findings([bare.with_(site="größe")], stream)
    stream.flush()

    assert raw.getvalue().startswith(b"TT201 dead-units at gr??e, step 1200\n")


def test_heading_of_a_run_as_a_whole(bare):
    assert heading(bare.with_(site="", step=None)) == "TT201 dead-units"


def test_json_is_a_list_of_findings(finding, source_finding):
    data = json.loads(to_json([finding, source_finding]))

    assert [Finding.from_dict(each) for each in data] == [finding, source_finding]
    assert json.loads(to_json([])) == []


def test_json_has_no_nan(finding):
    values = (math.nan, math.inf, -math.inf, np.float32(0.5), torch.tensor(2.0), np.int64(3))
    evidence = tuple(Evidence(name="x", value=v, normal="1") for v in values)

    text = to_json([finding.with_(evidence=evidence)])

    data = json.loads(text, parse_constant=pytest.fail)
    shown = [e["value"] for e in data[0]["evidence"]]
    assert shown == ["nan", "inf", "-inf", 0.5, 2.0, 3]


def test_plain():
    assert plain({1: (np.float64("nan"), {"a"}), "b": [None, True, object]}) == {
        "1": ["nan", ["a"]],
        "b": [None, True, "<class 'object'>"],
    }
