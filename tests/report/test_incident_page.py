"""The page of an incident: its data, and the page in a real browser."""

import base64
import json
import math
import re

import numpy as np
import pytest

from trimtab.report._incident_page import MAX_ROWS, SCRIPTS, incident_page


def replay(change, losses, **changes):
    words = {(): "as it was", ("lr",): "learning rate × 0.5"}
    row = {
        "change": change,
        "words": words.get(tuple(change), "without the data of step 51"),
        "steps": [48, 49, 50, 51, 52, 53],
        "losses": losses,
        "norms": [1.0] * len(losses),
        "probe": 1.9,
        "healed": False,
        "reproduced": None,
        "seconds": 0.5,
        "note": "",
    }
    return row | changes


def make(**changes):
    """Return an incident as its `to_dict()` gives it: a spike at step 51, then NaN."""
    steps = list(range(1, 54))
    losses = [2 + 1 / s for s in steps[:50]] + [913.25, "nan", "inf"]
    finding = {
        "code": "TT512",
        "name": "bad-batch",
        "severity": "error",
        "symptom": "loss_spike",
        "site": "",
        "what": "the loss rose from 2.02 to 913 at step 51",
        "evidence": [{"name": "loss", "value": "inf", "normal": "<= 2.31"}],
        "cause": "the batch is far from all others",
        "fix": "look at the batch",
    }
    data = {
        "step": 51,
        "detected": 53,
        "kind": "rollback",
        "finding": finding,
        "action": "went back to step 47",
        "limits": {"loss_level": 2.0, "loss_limit": 2.31, "norm_level": 1.0, "norm_limit": "inf"},
        "signals": {
            "step": steps,
            "loss": losses,
            "gradient.norm": [1.0] * 50 + [47_000.0, "nan", "nan"],
            "learning_rate": [0.001] * 53,
            "skipped": [0.0] * 50 + [1.0, 1.0, 1.0],
        },
        "experiments": [
            replay({}, [2.02, 2.02, 2.02, 913.25, "nan", "inf"], reproduced=True),
            replay({"without": [51]}, [2.02, 2.02, 2.02, "nan", 2.0, 2.0], healed=True),
            replay({"lr": 0.5}, [2.02, 2.02, 2.02, 913.25], probe="nan", note="out of time"),
        ],
        "snapshot_step": 47,
        "lost_steps": 6,
        "suspects": {"steps": [51], "rows": [3], "row_losses": [2.0, 2.5, 1.0, 7300.0, "nan"]},
        "environment": {"torch": "2.13.0", "device": "cpu", "variables": {"MKL_CBWR": "AVX2"}},
        "config": {"recipe": "gpt", "run": {"seed": 0}},
        "path": "runs/a b/step-00000051",
        "left_out": ["state of mine: pickled"],
    }
    return data | changes


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def payload(**changes):
    return data_of(incident_page(make(**changes), "Incident at step 51"))


def numbers(stored, key="y"):
    return np.frombuffer(base64.b64decode(stored[key]), "<f4").tolist()


def test_says_what_happened_in_words():
    assert payload()["story"] == [
        ["what happened", "the loss rose from 2.02 to 913 at step 51"],
        ["cause", "TT512 bad-batch: the batch is far from all others"],
        ["evidence", "loss inf, normal <= 2.31"],
        ["what was done", "went back to step 47"],
        ["what it cost", "the updates of 6 steps, and 1.5 s for 3 replays"],
        ["what to do", "look at the batch"],
    ]


@pytest.mark.parametrize(
    ("kind", "level", "word"),
    [
        ("skip", "warn", "Step left out"),
        ("rollback", "warn", "Rolled back"),
        ("stop", "bad", "Run stopped"),
        ("observed", "plain", "Observed only"),
    ],
)
def test_says_in_a_word_what_was_done(kind, level, word):
    assert payload(kind=kind)["runs"][0]["verdict"] == {
        "level": level,
        "word": word,
        "facts": [
            "bad since step 51",
            "noticed at step 53",
            "1 of 2 changes removed it",
        ],
    }


def test_figures_stand_beside_what_is_usual():
    figures = payload()["runs"][0]["figures"]

    assert [(f["label"], f["value"], f["note"]) for f in figures] == [
        ("Loss at step 51", "913", "usual 2; limit 2.31"),
        ("Gradient norm at step 51", "47,000", "usual 1; limit ∞"),
        ("Steps lost", "6", "snapshot of step 47"),
        ("Replays", "3", "in 1.5 s"),
    ]


def test_replays_are_a_table_in_words():
    rows = payload()["experiments"]

    shown = ("change", "level", "outcome", "recorded", "replayed", "last", "probe", "note", "broke")
    assert [tuple(row[name] for name in shown) for row in rows] == [
        (
            *("as it was", "plain", "happened again, bit for bit", "913.2", "913.2", "∞", "1.900"),
            *("", "loss not finite at 2 steps, the first of them 52"),
        ),
        (
            *("without the data of step 51", "good", "did not happen", "913.2", "left out", "2"),
            *("1.900", "", ""),
        ),
        (
            *("learning rate × 0.5", "bad", "happened again", "913.2", "913.2", "913.2", ""),
            *("out of time", ""),
        ),
    ]


def test_a_replay_without_changes_may_differ():
    outcomes = [
        payload(experiments=[replay({}, [2.0], reproduced=same, healed=healed)])["experiments"][0]
        for same, healed in ((False, False), (False, True), (True, True), (None, False))
    ]

    assert [(row["level"], row["outcome"]) for row in outcomes] == [
        ("warn", "happened again, not as recorded"),
        ("warn", "did not happen again"),
        ("warn", "did not happen again"),
        ("plain", "happened again"),
    ]


def test_curves_hold_what_was_recorded_and_where_it_was_no_number():
    found = payload()
    loss = found["series"]["loss"]

    assert numbers(loss)[50] == 913.25
    assert numbers(loss, "odd") == [0.0] * 51 + [1.0, 1.0]
    assert numbers(found["experiments"][1]["replay"]) == pytest.approx([2.02] * 3 + [2, 2])
    assert numbers(found["experiments"][2]["before"])[3] == 913.25


def test_steps_are_marked():
    assert [(m["step"], m["label"]) for m in payload()["marks"]] == [
        (47, "snapshot"),
        (51, "first bad step"),
        (53, "noticed"),
    ]
    assert [m["label"] for m in payload(snapshot_step=None, detected=51)["marks"]] == [
        "first bad step, noticed"
    ]


def test_suspects_stand_by_their_loss():
    suspects = payload()["suspects"]

    assert [(r["row"], r["loss"], r["accused"], r["odd"]) for r in suspects["rows"]] == [
        (4, "NaN", False, True),
        (3, "7,300", True, False),
        (1, "2.500", False, False),
        (0, "2", False, False),
        (2, "1", False, False),
    ]
    assert [r["share"] for r in suspects["rows"]] == [1, 1, 2.5 / 7300, 2 / 7300, 1 / 7300]
    assert suspects["others"] == [["steps", "51"], ["rows", "3"]]


def test_a_large_batch_is_shown_in_part():
    suspects = payload(suspects={"row_losses": list(range(1000))})["suspects"]

    assert [row["row"] for row in suspects["rows"]] == list(range(999, 999 - MAX_ROWS, -1))
    assert suspects["left_out"] == 1000 - MAX_ROWS


def test_commands_repeat_it():
    assert payload()["commands"] == [
        ["Repeat the incident in a fresh process", "trimtab replay 'runs/a b/step-00000051'"],
        [
            "Repeat it with the change that removes it",
            "trimtab replay 'runs/a b/step-00000051' --change without=51",
        ],
    ]


def test_without_a_recipe_or_a_remedy_commands_say_what_to_add():
    assert payload(config={}, experiments=[], path="a")["commands"] == [
        [
            "Repeat the incident in a fresh process",
            "trimtab replay a --build MODULE:FUNCTION",
        ],
        ["Try a change of your own", "trimtab replay a --build MODULE:FUNCTION --change lr=0.5"],
    ]


def test_what_cannot_be_repeated_has_no_commands():
    assert payload(replayable=False)["commands"] == []


def test_options_are_those_that_a_change_is_read_from():
    from trimtab.guard._change import Change

    change = Change(fresh_moments=True, without=frozenset({3, 4}), precision="fp32")
    rows = [replay(change.to_dict(), [2.0], healed=True)]
    (_, (_, command)) = payload(experiments=rows)["commands"]

    words = command.partition(" --change ")[2].split()
    assert Change.parse(dict(word.split("=") for word in words)) == change


def test_the_barest_incident_has_a_page():
    bare = payload(
        limits={}, signals={}, experiments=[], suspects={}, environment={}, config={}, left_out=[]
    )

    assert bare["series"] == {"step": {"x": "", "y": "", "odd": ""}}
    assert bare["story"][-2] == ["what it cost", "the updates of 6 steps"]


def test_loads_nothing_and_runs_nothing_else():
    page = incident_page(make(), "A < B & C")

    assert "<title>A &lt; B &amp; C</title>" in page
    bare = page.replace("http://www.w3.org/2000/svg", "").replace(page.split('id="data">')[1], "")
    assert "http" not in re.sub(r"http-equiv", "", bare)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert len(page) < 150_000


def test_scripts_are_of_readable_size():
    from importlib import resources

    folder = resources.files("trimtab.report") / "page"
    for script in SCRIPTS:
        text = (folder / script).read_text(encoding="utf-8")
        assert text.startswith("// ")
        assert len(text.splitlines()) <= 420, script


@pytest.fixture
def opened(show, tmp_path):
    def opened(size=(1280, 800), scheme="light", **changes):
        path = tmp_path / "incident.html"
        path.write_text(incident_page(make(**changes), "Incident at step 51"), encoding="utf-8")
        return show(path, size=size, scheme=scheme)

    return opened


@pytest.mark.slow
def test_every_part_is_there(opened):
    page = opened()

    assert page.locator("h1").inner_text() == "Incident at step 51"
    assert page.locator("h2").all_inner_texts() == [
        "What happened",
        "Around the event",
        "Replays",
        "Suspects",
        "Reproduce it",
        "Settings",
    ]
    assert page.locator(".verdict strong").inner_text() == "Rolled back"
    assert page.locator("#event .plot").count() == 3
    assert page.locator("#replays .panel .plot").count() == 3
    outcomes = page.locator("#replays table .outcome").all_inner_texts()
    assert outcomes == ["happened again, bit for bit", "did not happen", "happened again"]
    assert page.locator("pre.command").all_inner_texts()[1].endswith("--change without=51")
    assert "Not saved: state of mine: pickled" in page.locator("#reproduce").inner_text()


@pytest.mark.slow
def test_charts_show_limits_and_marks(opened):
    loss = opened().locator("#event .panel").first

    assert loss.locator("path.area.tint-good").count() == 1
    assert loss.locator("path.dashed.tint-1").count() == 1
    words = loss.locator(".mark-word").all_text_contents()
    assert words == ["snapshot", "first bad step", "noticed"]
    assert loss.locator("path.rug.tint-broken").get_attribute("d").count("M") == 2
    legend = loss.locator(".legend li").all_inner_texts()
    assert legend[:4] == ["within the limit", "limit", "usual level", "loss"]


@pytest.mark.slow
def test_charts_tell_values_by_keyboard(opened):
    plot = opened().locator("#event svg.plot").first
    plot.focus()
    plot.press("End")
    assert "loss not finite" in plot.get_attribute("aria-valuetext")
    plot.press("ArrowLeft")
    plot.press("ArrowLeft")
    assert "loss 913.3" in plot.get_attribute("aria-valuetext")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(390, 844), (1280, 800)], ids=str)
def test_nothing_is_wider_than_the_screen(opened, size):
    page = opened(size)

    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_outcomes_can_be_read_in_both_themes(opened, scheme):
    page = opened(scheme=scheme)

    for level, variable in (("good", "--good"), ("bad", "--bad")):
        colour = page.locator(f"#replays table .outcome.level-{level}").first.evaluate(
            "(e) => getComputedStyle(e).color"
        )
        hexadecimal = page.evaluate(
            f"getComputedStyle(document.documentElement).getPropertyValue('{variable}')"
        )
        red, green, blue = (int(hexadecimal.strip()[i : i + 2], 16) for i in (1, 3, 5))
        assert colour == f"rgb({red}, {green}, {blue})"


@pytest.mark.slow
def test_the_barest_page_opens(opened):
    page = opened(
        limits={}, signals={}, experiments=[], suspects={}, environment={}, config={}, left_out=[]
    )

    assert "were not replayed" in page.locator("#replays").inner_text()


@pytest.mark.slow
def test_a_report_alone_says_that_it_cannot_be_repeated(opened):
    text = opened(replayable=False).locator("#reproduce").inner_text()

    assert "cannot be repeated" in text
    assert "trimtab replay" not in text


@pytest.mark.slow
def test_texts_cannot_become_code(opened):
    evil = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    rows = [replay({}, [math.inf], note=evil, words=evil)]

    page = opened(action=evil, experiments=rows, suspects={evil: evil}, path=evil)

    assert page.title() == "Incident at step 51"
    assert page.locator("img").count() == 0
    assert evil in page.locator("#story").inner_text()
