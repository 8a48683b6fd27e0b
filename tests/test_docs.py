"""Everything the README and the documentation show is run, and everything they name exists.

A code block that cannot run here stands below a comment that says why:
`<!-- not run: it needs two GPUs -->`. It is compiled all the same.
"""

import doctest
import functools
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.audit._target import import_function
from trimtab.cli import main
from trimtab.cli._replay import replay_parser
from trimtab.engine import TrainingSetup
from trimtab.engine._replay_bundle import parse_changes
from trimtab.findings import _rule, registered
from trimtab.signals import RunWriter

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

BLOCK = re.compile(
    r"^(?:(?P<mark><!--.*?-->)\s*\n)?"
    r"(?P<indent> *)```(?P<language>[\w-]+)(?P<title>[^\n]*)\n(?P<body>.*?)^(?P=indent)```\s*$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"<!-- not run: (\S.*?) -->")
SHELLS = {"bash", "console", "sh", "shell"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    body: str
    line: int
    """Of the body's first line."""
    skipped: str
    """Why it is not run; empty if it is."""


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    text = read(page)
    for match in BLOCK.finditer(text):
        mark = NOT_RUN.fullmatch(match["mark"] or "")
        yield Block(
            language=match["language"],
            title=match["title"],
            body=textwrap.dedent(match["body"]),
            line=text.count("\n", 0, match.start("body")) + 1,
            skipped=mark[1] if mark else "",
        )


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return BLOCK.sub("", read(page))


def write_files(page: Path, folder: Path) -> None:
    """Write the page's blocks with a `title="file"` where its commands and code look for them."""
    for block in blocks(page):
        if file := re.search(r'title="([\w.-]+)"', block.title):
            (folder / file[1]).write_text(block.body, encoding="utf-8")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to run in; torch's random state and the rules are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        yield tmp_path
    for code in [c for c, r in registered().items() if r.__module__ == "page"]:
        del _rule._REGISTRY[code]  # of a page's own


@pytest.mark.filterwarnings("ignore:[A-Z]+[0-9]+ :trimtab.StabilityWarning")  # findings
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_runs(page, workplace, monkeypatch):
    write_files(page, workplace)
    module = types.ModuleType("page")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page):
        if block.language == "python":
            source = "\n" * (block.line - 1) + block.body
            code = compile(source, str(page), "exec")
            if not block.skipped:
                exec(code, module.__dict__)
        elif block.language == "pycon":
            examples = doctest.DocTestParser().get_doctest(
                block.body, module.__dict__, name(page), str(page), block.line - 1
            )
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            assert runner.run(examples, clear_globs=False).failed == 0


@dataclass(frozen=True)
class Command:
    """A command that a page shows."""

    page: Path
    line: int
    words: tuple[str, ...]


def commands() -> Iterator[Command]:
    """Yield the commands of all pages, without variables before them and redirections after."""
    for page in LINKING:
        for block in blocks(page):
            if block.language not in SHELLS:
                continue
            lines = block.body.replace("\\\n", "  ").splitlines()
            prompts = any(line.startswith("$ ") for line in lines)
            for offset, line in enumerate(lines):
                if prompts and not line.startswith("$ "):
                    continue  # output
                lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
                lexer.whitespace_split = True
                words = [w for w in lexer if not re.fullmatch(r"[A-Z_]+=\d+", w)]
                end = next((i for i, w in enumerate(words) if set(w) <= set("|&;<>")), len(words))
                if words:
                    yield Command(page, block.line + offset, tuple(words[:end]))


COMMANDS = list(commands())


def command_id(command: Command) -> str:
    return f"{name(command.page)}:{command.line}"


def record_runs(paths: list[str], folder: Path) -> None:
    """Write the runs that a command wants to show."""
    for path in paths:
        writer = RunWriter(folder / path, info={})
        writer.append("steps", 0, {"loss": np.ones(1)})
        writer.close()


def accept_replay(args: list[str]) -> None:
    """Check what stands behind `trimtab replay`, as far as that needs no incident."""
    given = replay_parser().parse_args(args)
    assert given.incident.name.startswith("step-")
    assert len(parse_changes(given.change)) == len(given.change)
    if given.build is not None:
        assert isinstance(import_function(given.build)(0), TrainingSetup)


BUILD = """\
import torch
import trimtab

def build(seed):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.ones(4, 2), torch.ones(4, 1)
    return trimtab.TrainingSetup(model, optimizer, torch.nn.MSELoss(), [batch])
"""
"""A training run that an audit finds nothing wrong with."""


def accept(args: list[str], page: Path, folder: Path) -> None:
    """Check that the trimtab command takes these arguments."""
    write_files(page, folder)
    if args[:1] == ["replay"]:  # the incident is not here
        accept_replay(args[1:])
        return
    prepare = {"train": print_config, "audit": write_builds, "check": write_sources}
    prepare |= dict.fromkeys(("report", "watch", "diagnose"), functools.partial(show, folder))
    args = prepare.get(args[0], list)(args) if args else args
    try:
        status = main(args)
    except SystemExit as stop:
        status = stop.code
    assert status in {0, None}


def print_config(args: list[str]) -> list[str]:
    """Let a training only say what it would do."""
    if {"--help", "-h"} & set(args):
        return args
    if "--resume" in args:  # it reads a run, which is not here; its options are the same
        assert "--config" not in args
        args = [a for a in args if a != "--resume"]
    return [*args, "--print-config"]


def write_builds(args: list[str]) -> list[str]:
    """Write the files that an audit is to look at."""
    for word in args[2:]:
        if ".py:" in word:
            Path(word.split(":")[0]).write_text(BUILD)
    return args


def write_sources(args: list[str]) -> list[str]:
    """Make whatever could be a path that is to be checked."""
    for word in args[1:]:
        if word.endswith(".py"):
            Path(word).touch()
        elif not word.startswith("-"):
            Path(word).mkdir(exist_ok=True)
    return args


def show(folder: Path, args: list[str]) -> list[str]:
    """Record the runs that are to be shown; nothing is opened."""
    record_runs([a for a in args[1:] if a.startswith("runs/")] or ["runs/newest"], folder)
    return [a for a in args if a != "--open"]


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.words[0] == "trimtab"], ids=command_id
)
def test_trimtab_command_is_accepted(command, workplace, capsys):
    accept(list(command.words[1:]), command.page, workplace)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "make"], ids=command_id)
def test_make_command_exists(command, workplace, capsys):
    targets = [w for w in command.words[1:] if "=" not in w]
    variables = dict(w.split("=", 1) for w in command.words[1:] if "=" in w)
    makefile = read(ROOT / "Makefile")

    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    for variable in variables:
        assert f"$({variable})" in makefile, variable
    if "train" in targets:
        accept(["train", *shlex.split(variables.get("ARGS", ""))], command.page, workplace)


@functools.cache
def known_options() -> str:
    """Return the help of every recipe and command."""
    command = [sys.executable, "-m", "trimtab.cli"]
    alone = (["report"], ["watch"], ["check"], ["diagnose"], ["replay"], ["explain"])
    audits = (["audit", "resume"], ["audit", "accumulation"])
    named = (["train", "gpt"], ["train", "stablenet"], *audits, *alone)
    helps = [[*command, *words, "--help"] for words in named]
    return "".join(subprocess.check_output(h, text=True) for h in helps)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_options_exist(page, workplace):
    named = set(re.findall(r"`(--[a-z][a-z-]*)", prose(page))) - {"--version"}

    assert {o for o in named if not re.search(rf"{o}\b(?!-)", known_options())} == set()


def resolve(path: str) -> object:
    """Return the module or object of a dotted name."""
    parts = path.split(".")
    value: object = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], start=2):
        try:
            value = getattr(value, part)
        except AttributeError:  # not imported yet, or hidden by a function of the package's name
            value = importlib.import_module(".".join(parts[:i]))
    return value


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_objects_exist(page):
    text = re.sub(r"\]\([^)]*\)", "]", read(page))  # not the targets of links
    missing = []
    for path in sorted(set(re.findall(r"(?<![\w./-])trimtab(?:\.\w+)+(?!\w*/)", text))):
        try:
            resolve(path)
        except (AttributeError, ImportError):
            missing.append(path)

    assert missing == []


def anchors(page: Path) -> set[str]:
    """Return the ids of a page's headings, and of the objects that it documents."""
    text = prose(page)
    headings = re.findall(r"^#+ (.*?)(?: \{ ?#([\w-]+) ?\})?$", text, re.MULTILINE)
    slugs = {
        identifier or re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
        for title, identifier in headings
    }
    for path in re.findall(r"^::: ([\w.]+)", text, re.MULTILINE):
        slugs |= {path, *(f"{path}.{n}" for n in getattr(resolve(path), "__all__", ()))}
    return slugs


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        anchored = bool(anchor) and file.suffix == ".md"
        if not file.exists() or (anchored and anchor not in anchors(file)):
            broken.append(target)

    assert broken == []


def test_every_page_is_in_the_navigation():
    shown = re.findall(r'"([\w/-]+\.md)"', read(ROOT / "zensical.toml"))

    assert sorted(shown) == sorted(str(p.relative_to(ROOT / "docs")) for p in PAGES[1:])


@pytest.mark.slow
def test_site_builds_strictly_and_loads_nothing_from_the_network(tmp_path):
    for part in ("docs", "src"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]

    built = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    assert built.returncode == 0, built.stdout + built.stderr
    assert "griffe:" not in built.stdout + built.stderr  # a docstring that cannot be read
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES)
    loads = r'<(?:link|script|img|iframe)\b[^>]*(?:src|href)="?((?:https?:)?//[^"\s>]*)'
    assert {p.name: found for p in pages if (found := re.findall(loads, read(p)))} == {}


def test_the_readers_of_pages_see_what_they_should(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One, two\n\n<!-- not run: no GPU -->\n```python\n1 / 0\n```\n\n- item\n\n"
        '    ```toml title="run.toml"\n    x = 1\n    ```\n',
        encoding="utf-8",
    )

    first, second = blocks(page)

    assert (first.skipped, first.line, first.body) == ("no GPU", 5, "1 / 0\n")
    assert (second.language, second.body) == ("toml", "x = 1\n")
    assert anchors(page) == {"one-two"}
