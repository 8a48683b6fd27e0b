"""What `trimtab check` does."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import ConfigError
from trimtab.findings import Finding, Selection
from trimtab.lint._lint import fix_source
from trimtab.lint._paths import lint_file, python_files, read_text, rules_of


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What a check found and changed."""

    findings: list[Finding]
    """What is left to say."""
    num_files: int
    """Files that were read."""
    changed: tuple[str, ...] = ()
    """Files that were repaired, or would be."""
    diff: str = ""
    """The repairs as a unified diff, where it was asked for."""
    unread: tuple[str, ...] = ()
    """Why files that were found in a folder could not be read."""


def check_command(
    paths: Iterable[str | Path],
    selection: Selection | None = None,
    *,
    fix: bool = False,
    diff: bool = False,
) -> CheckResult:
    """Check files and folders, and repair them if asked.

    Args:
        paths: Files and folders.
        selection: Of rules and their settings; all of them as they are if None.
        fix: Write the safe repairs to the files.
        diff: Return the safe repairs as a diff, and write nothing.

    Raises:
        ConfigError: A path does not exist, or a file that was named cannot be read.
    """
    rules = rules_of(selection)
    findings: list[Finding] = []
    changed, diffs, unread = [], [], []
    num_files = 0
    for path, named in python_files(paths):
        try:
            num_files += 1
            if (fix or diff) and path.suffix == ".py":
                before = read_text(path)
                after, left = fix_source(before, str(path), rules)
                findings += left
                if after != before:
                    changed.append(str(path))
                    diffs.append(_diff(before, after, str(path)))
                    if not diff:
                        _write(path, after)
            else:
                findings += lint_file(path, rules)
        except ConfigError as error:
            if named:
                raise
            unread.append(str(error))
    return CheckResult(
        findings=findings,
        num_files=num_files,
        changed=tuple(changed),
        diff="".join(diffs) if diff else "",
        unread=tuple(unread),
    )


def _diff(before: str, after: str, path: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        path,
        f"{path} (repaired)",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _write(path: Path, text: str) -> None:
    import tokenize

    with path.open("rb") as file:
        encoding, _ = tokenize.detect_encoding(file.readline)
    with path.open("w", encoding=encoding, newline="") as out:
        out.write(text)
