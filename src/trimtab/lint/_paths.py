"""Linting of files and folders."""

import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from trimtab.errors import ConfigError
from trimtab.findings import Finding, Selection
from trimtab.lint._lint import LIBRARIES, judge, lint_source
from trimtab.lint._names import words
from trimtab.lint._notebook import read_notebook
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source

SUFFIXES: Final = (".py", ".ipynb")
SKIPPED: Final = words("__pycache__ build dist env venv node_modules site-packages wandb mlruns")
"""Folders that hold no source of one's own; hidden ones are skipped as well."""
MOST_BYTES: Final = 1_000_000
"""Longer files are generated, and train nothing."""


def lint_paths(paths: Iterable[str | Path], selection: Selection | None = None) -> list[Finding]:
    """Return what is wrong with Python files and notebooks, file by file.

    Args:
        paths: Files, and folders to be searched for `*.py` and `*.ipynb`. Hidden folders, virtual
            environments and build folders within them are skipped.
        selection: Of rules and their settings; all of them as they are if None.

    Raises:
        ConfigError: A path does not exist, or a file that was named, not found in a folder, cannot
            be read.
    """
    rules = rules_of(selection)
    findings: list[Finding] = []
    for path, named in python_files(paths):
        try:
            findings += lint_file(path, rules)
        except ConfigError:
            if named:
                raise
    return findings


def rules_of(selection: Selection | None) -> list[SourceRule] | None:
    """Return the rules over source code that are selected; None for all."""
    if selection is None:
        return None
    return [r for r in selection.rules("source") if isinstance(r, SourceRule)]


def lint_file(path: Path, rules: Sequence[SourceRule] | None = None) -> list[Finding]:
    """Return what is wrong with one file.

    Args:
        path: Of a Python file or a notebook.
        rules: That judge; None for all.

    Raises:
        ConfigError: It cannot be read.
    """
    text = read_text(path)
    if path.suffix != ".ipynb":
        return lint_source(text, str(path), rules)
    if not any(name in text for name in LIBRARIES):
        return []
    notebook = read_notebook(text, str(path))
    found = judge(Source(notebook.text, str(path)), rules)
    return [notebook.place(f) for f in found]


def python_files(paths: Iterable[str | Path]) -> Iterator[tuple[Path, bool]]:
    """Yield each file once, and whether it was named itself.

    Raises:
        ConfigError: A path does not exist.
    """
    seen: set[Path] = set()
    for given in paths:
        path = Path(given)
        if path.is_dir():
            found = [(p, False) for p in _walk(path)]
        elif path.exists():
            found = [(path, True)]
        else:
            raise ConfigError(f"There is no file or folder {str(path)!r}. Check the path.")
        for file, named in found:
            if file not in seen:
                seen.add(file)
                yield file, named


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            skipped = path.name in SKIPPED or path.is_symlink()
            if not skipped and not (path / "pyvenv.cfg").exists():
                yield from _walk(path)
        elif path.suffix in SUFFIXES and path.stat().st_size <= MOST_BYTES:
            yield path


def read_text(path: Path) -> str:
    """Return the text of a file, with its line ends as they are.

    Raises:
        ConfigError: It cannot be read, or is in no encoding that Python knows.
    """
    try:
        with path.open("rb") as file:
            encoding, _ = tokenize.detect_encoding(file.readline)
        with path.open(encoding=encoding, newline="") as text:
            return text.read()
    except (OSError, SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise ConfigError(
            f"{path} cannot be read as text: {error}. Save it as UTF-8, or leave it out."
        ) from error
