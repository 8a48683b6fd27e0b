import base64
import hashlib
import json
import re

import pytest

from trimtab.errors import ConfigError
from trimtab.report import write_report
from trimtab.report._html import SCRIPTS, embed


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_is_one_file_beside_the_run(make_run):
    path = make_run(num_steps=30)
    report = write_report([path])
    assert report == path / "report.html"
    page = report.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert data_of(page)["runs"][0]["name"] == "run"


def test_loads_nothing_and_runs_nothing_else(make_run):
    page = write_report([make_run(num_steps=30)]).read_text(encoding="utf-8")
    bare = page.replace("http://www.w3.org/2000/svg", "").replace(page.split('id="data">')[1], "")
    assert "http" not in re.sub(r"http-equiv", "", bare)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_another_file_and_title(make_run, tmp_path):
    out = tmp_path / "other.html"
    assert write_report([make_run(num_steps=30)], out, name="A < B & C") == out
    assert "<title>A &lt; B &amp; C</title>" in out.read_text(encoding="utf-8")


def test_runs_of_one_name_go_by_their_folders(make_run, tmp_path):
    paths = [make_run(folder, num_steps=30, name="gpt") for folder in ("first", "second")]
    page = write_report(paths, tmp_path / "r.html").read_text(encoding="utf-8")
    assert [run["name"] for run in data_of(page)["runs"]] == ["first (A)", "second (B)"]


def test_without_layers_it_is_small(csv_run):
    assert write_report([csv_run]).stat().st_size < 120_000


@pytest.mark.slow
@pytest.mark.parametrize("num_layers", [100, 400])
def test_a_long_run_fits_into_three_megabytes(make_run, num_layers):
    path = make_run(num_steps=10_000, num_layers=num_layers, every=20)
    assert write_report([path]).stat().st_size <= 3_000_000


@pytest.mark.parametrize("count", [0, 3])
def test_a_report_is_about_one_run_or_two(make_run, count):
    with pytest.raises(ConfigError, match=f"one run or two, got {count}"):
        write_report([make_run(num_steps=5)] * count)


def test_a_file_that_cannot_be_written(make_run, tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot write the report to .*--out"):
        write_report([make_run(num_steps=5)], tmp_path / "none" / "r.html")


def test_data_cannot_end_its_element():
    text = embed({"</script><!--": ["&lt;", float("inf"), (1.5, None)]})
    assert not set(text) & set("<>&")
    assert json.loads(text) == {"</script><!--": ["&lt;", None, [1.5, None]]}


def test_scripts_are_of_readable_size():
    from importlib import resources

    folder = resources.files("trimtab.report") / "page"
    for script in SCRIPTS:
        text = (folder / script).read_text(encoding="utf-8")
        assert text.startswith("// ")
        assert len(text.splitlines()) <= 420, script
