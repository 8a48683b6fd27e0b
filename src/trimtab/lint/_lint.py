"""Linting of texts and of functions."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

from trimtab.errors import ConfigError
from trimtab.findings import Finding, registered
from trimtab.lint._edits import apply_fixes, edits_of
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint._suppress import unsuppressed

LIBRARIES: Final = ("torch", "lightning", "accelerate", "transformers", "numpy")
"""A text that names none of these trains nothing that the rules know."""
ROUNDS: Final = 10
"""Rounds of fixing; a fix that makes room for another needs one more."""


def source_rules() -> list[SourceRule]:
    """Return every registered rule over source code, with its own thresholds."""
    return [rule() for rule in registered("source").values() if issubclass(rule, SourceRule)]


def lint_source(
    text: str, path: str = "<string>", rules: Sequence[SourceRule] | None = None
) -> list[Finding]:
    r"""Return what is wrong with a text of Python, in its order.

    Nothing is executed. Comments such as `# trimtab: ignore[TT701]` silence what they name.

    Args:
        text: Of a whole file.
        path: As findings shall name it.
        rules: That judge; None for all.

    Raises:
        ConfigError: The text is not Python.

    Examples:
        >>> found = lint_source("import torch\nfor x in data:\n    optimizer.step\n")
        >>> print(found[0])
        TT731 missing-call at <string>:3:5: the method optimizer.step is named and not called
    """
    if not any(name in text for name in LIBRARIES):
        return []
    return judge(Source(text, path), rules)


def judge(source: Source, rules: Sequence[SourceRule] | None = None) -> list[Finding]:
    """Return what rules find in a source, in its order, each once a place.

    Raises:
        ConfigError: Its expressions are nested too deeply to be followed.
    """
    found: dict[tuple[object, ...], Finding] = {}
    try:
        for rule in source_rules() if rules is None else rules:
            for finding in rule.check(source):
                if not source.is_expected_to_fail(finding.line or 0):
                    found.setdefault((finding.code, finding.line, finding.column), finding)
    except RecursionError as error:
        raise ConfigError(
            f"{source.path} has expressions that are nested too deeply to be followed. Split them, "
            "or leave the file out."
        ) from error
    kept = unsuppressed(source, found.values())
    return sorted(kept, key=lambda f: (f.line or 0, f.column or 0, f.code))


def fix_source(
    text: str, path: str = "<string>", rules: Sequence[SourceRule] | None = None
) -> tuple[str, list[Finding]]:
    """Return a text with all repairs made that are safe, and what is then left to say.

    Args:
        text: Of a whole file.
        path: As findings shall name it.
        rules: That judge; None for all.

    Raises:
        ConfigError: The text is not Python.
    """
    findings = lint_source(text, path, rules)
    for _ in range(ROUNDS):
        if not any(edits_of(f) for f in findings):
            break
        changed = apply_fixes(text, findings)
        if changed == text:
            break
        text, findings = changed, lint_source(changed, path, rules)
    return text, findings


def lint_function(
    function: Callable[..., Any], rules: Sequence[SourceRule] | None = None
) -> list[Finding]:
    """Return what is wrong with the source of one training step.

    The function is taken as one step that a loop calls again and again. Names from outside it are
    looked up in its globals and its closure.

    Args:
        function: Any; empty for one whose source cannot be found.
        rules: That judge; None for all.
    """
    function = inspect.unwrap(function)
    code = getattr(function, "__func__", function)
    if not isinstance(code, FunctionType):
        code = vars(type(function)).get("__call__")
    if not isinstance(code, FunctionType):
        return []
    try:
        lines, first = inspect.getsourcelines(code)
        path = inspect.getsourcefile(code) or "<string>"
        text, shift = _standing_alone("".join(lines))
        source = Source(text, path, fragment=True, **_surroundings(code))
    except (OSError, TypeError, ConfigError):
        return []
    moved = []
    for finding in judge(source, rules):
        line = None if finding.line is None else finding.line + first - 1
        column = None if finding.column is None else finding.column + shift
        moved.append(finding.with_(line=line, column=column, remedy=None))
    return moved


def _standing_alone(text: str) -> tuple[str, int]:
    """Return a function's text without its indentation, and how much that was.

    Raises:
        ConfigError: It is not a function of its own, such as a lambda within a call.
    """
    plain = textwrap.dedent(text)
    shift = len(text) - len(text.lstrip()) - (len(plain) - len(plain.lstrip()))
    try:
        tree = ast.parse(plain)
    except SyntaxError as error:
        raise ConfigError("The source is part of another statement. Name the function.") from error
    if not isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        raise ConfigError("The source is not a function's. Define it with def.")
    return plain, shift


def _surroundings(function: FunctionType) -> dict[str, dict[str, Any]]:
    """Return what the names around a function stand for, constants, and classes of objects."""
    aliases: dict[str, str] = {}
    classes: dict[str, str] = {}
    constants: dict[str, object] = {}
    closure = inspect.getclosurevars(function)
    for name, value in [*closure.globals.items(), *closure.nonlocals.items()]:
        if value is None or isinstance(value, bool | int | float | str):
            constants[name] = value
        elif isinstance(value, ModuleType):
            aliases[name] = value.__name__
        elif isinstance(value, type | FunctionType | BuiltinFunctionType):
            module = getattr(value, "__module__", None) or ""
            aliases[name] = f"{module}.{getattr(value, '__name__', name)}"
        else:
            classes[name] = type(value).__name__
    return {"aliases": aliases, "classes": classes, "constants": constants}
