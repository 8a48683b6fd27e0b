"""What the layout of the repository promises."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import griffe
import pytest

import trimtab

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "trimtab"
SOURCES = sorted(SRC.rglob("*.py"))
FACES = [p for p in SOURCES if p.name == "__init__.py"]
MODULES = [p for p in SOURCES if p not in FACES]


def name(path: Path) -> str:
    return str(path.relative_to(SRC))


def run_python(code: str) -> str:
    """Return what a fresh interpreter prints; bytecode is cached as it is for a user."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_import_takes_little_beyond_torch():
    code = (
        "import time, torch; began = time.process_time(); import trimtab; "
        "print(time.process_time() - began)"  # not of a clock: others may use the machine too
    )
    run_python(code)  # compiles

    seconds = [float(run_python(code)) for _ in range(5)]

    assert min(seconds) < 0.3, seconds


def distributions_of(*names: str) -> set[str]:
    """Return the installed distributions of these names and of all that they depend on."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        normal = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if normal in found:
            continue
        try:
            requires = metadata.requires(normal) or []
        except metadata.PackageNotFoundError:  # for another system
            continue
        found.add(normal)
        waiting += [re.match(r"[\w.-]+", r)[0] for r in requires if "extra ==" not in r]
    return found


def test_import_needs_torch_and_numpy_alone():
    allowed = distributions_of("torch", "numpy")
    code = (
        "import json, sys, torch, numpy; before = set(sys.modules); import trimtab; "
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )

    new = set(json.loads(run_python(code))) - sys.stdlib_module_names - {"trimtab"}

    owners = metadata.packages_distributions()
    foreign = {
        module
        for module in new
        if not {re.sub(r"[-_.]+", "-", o).lower() for o in owners.get(module, [])} & allowed
    }
    assert foreign == set()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_file_opens_with_one_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))

    assert docstring, "no docstring"
    assert docstring.splitlines()[0].endswith("."), docstring.splitlines()[0]


@pytest.mark.parametrize("path", FACES, ids=name)
def test_package_face_holds_imports_and_names_only(path):
    docstring, *body = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    *statements, last = body
    if path.parent == SRC:
        statements = [s for s in statements if ast.unparse(s).partition(" ")[0] != "__version__"]

    assert all(isinstance(s, ast.Import | ast.ImportFrom) for s in statements)
    assert isinstance(last, ast.Assign)
    assert ast.unparse(last.targets[0]) == "__all__"
    names = ast.literal_eval(last.value)
    assert names == sorted(set(names), key=lambda n: (not n.isupper(), not n[0].isupper(), n))


def exports() -> list[griffe.Object | griffe.Alias]:
    package = griffe.load("trimtab", search_paths=[SRC.parent])
    assert isinstance(package, griffe.Module)
    public = [m for m in package.modules.values() if not m.name.startswith("_")]
    found = [module[name] for module in (package, *public) for name in module.exports or ()]
    return [e for e in found if e.name != "__version__"]


def test_every_public_object_has_a_docstring():
    bare = [e.path for e in exports() if e.docstring is None]

    assert bare == []


def test_every_source_file_has_its_tests():
    mirrors = {
        p: ROOT / "tests" / p.parent.relative_to(SRC) / f"test_{p.stem.lstrip('_')}.py"
        for p in MODULES
    }

    assert [name(p) for p, mirror in mirrors.items() if not mirror.exists()] == []


def test_version_is_the_newest_in_the_changelog():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)

    assert newest
    assert project["version"] == newest[1] == trimtab.__version__


def test_public_names_are_the_documented_ones():
    page = (ROOT / "docs" / "reference" / "trimtab.md").read_text(encoding="utf-8")

    documented = re.findall(r"^\| \[?`(\w+)`", page, re.MULTILINE)

    assert sorted(documented) == sorted(trimtab.__all__)


def test_every_dependency_is_pinned():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if not line.startswith("#")]
    pinned = {re.sub(r"[-_.]+", "-", p.partition("==")[0]).lower() for p in pins}

    assert [p for p in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", p)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    direct = {
        re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", r)[0]).lower()
        for r in [*project["dependencies"], *(r for extra in extras for r in extra)]
    }
    assert direct - {"trimtab"} - pinned == set()
