"""Words run together where one literal ends and the next begins, and other slips in messages."""

import ast
import io
import re
import token
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))

LITERAL = re.compile(r"""(?is)[a-z]*('''|\"\"\"|'|")(.*)\1""")
SPACED = ("\\n", "\\t")  # escapes that separate words as well as a space does
FSTRING_START = getattr(token, "FSTRING_START", -1)  # since Python 3.12 an f-string is many tokens
FSTRING_END = getattr(token, "FSTRING_END", -1)


def literals(source: str) -> Iterator[tuple[int, str] | None]:
    """Yield line and text, without quotes, of each string literal; None for any other token."""
    lines = source.splitlines(keepends=True)
    depth, start = 0, (0, 0)
    for part in tokenize.generate_tokens(io.StringIO(source).readline):
        if part.type == FSTRING_START:
            start = start if depth else part.start
            depth += 1
        elif part.type == FSTRING_END:
            depth -= 1
        if depth:
            continue
        if part.type == token.STRING:
            start = part.start
        elif part.type in {token.NL, token.COMMENT}:
            continue
        elif part.type != FSTRING_END:
            yield None
            continue
        (first, left), (last, right) = start, part.end
        text = "".join(lines[first - 1 : last])
        text = text[left : len(text) - len(lines[last - 1]) + right]
        match = LITERAL.fullmatch(text)
        assert match, f"not a string literal: {text}"
        yield first, match[2]


def glued_words(source: str) -> Iterator[str]:
    """Yield each seam between adjacent literals that joins two words without a space."""
    before = None
    for part in literals(source):
        if before and part:
            (line, left), right = before, part[1]
            open_end = left.endswith(SPACED) or left[-1:] in {"", "(", "[", "-", "/", "=", " "}
            starts_word = right[:1].isalnum() or right[:1] in set("{('\"`")
            if not open_end and starts_word:
                yield f"line {line}: {left[-20:]}|{right[:20]}"
        before = part


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every message that is raised or warned with; `{}` for each value."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if not (name.endswith("Error") or name == "warn"):
            continue
        message = node.args[0]
        if isinstance(message, ast.Constant) and isinstance(message.value, str):
            yield message.lineno, message.value
        elif isinstance(message, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in message.values)
            yield message.lineno, "".join(map(str, parts))


def slips(source: str) -> Iterator[str]:
    """Yield each slip in a raised or warned message."""
    for line, text in messages(source):
        if "  " in text:
            yield f"line {line}: two spaces in {text!r}"
        if re.search(r"[a-z)}][,;!?][A-Za-z]", text):
            yield f"line {line}: no space after punctuation in {text!r}"
        if not text.endswith((".", "?", "{}")):
            yield f"line {line}: no full stop at the end of {text!r}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(p.parents[2])))
def test_messages_of_the_package_read_well(path):
    source = path.read_text(encoding="utf-8")

    assert [*glued_words(source), *slips(source)] == []


@pytest.mark.parametrize(
    "source",
    [
        'x = ("one"\n    "two")',
        'x = "one." "Two"',
        'x = f"got {y}" "words"',
        'x = ("steps "  # a comment\n    "must be"\n    f"{y}")',
        'x = "name" f"{y}"',
    ],
)
def test_finds_words_run_together(source):
    assert len(list(glued_words(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        'x = ("one "\n    "two")',
        'x = "one" " two"',
        'x = f"got {y} " "words"',
        'x = "one", "two"',
        'x = "line\\n" "line"',
        'x = f"{", ".join(y)} " f"{y}."' if FSTRING_START != -1 else 'x = ""',
    ],
)
def test_leaves_spaced_words_alone(source):
    assert list(glued_words(source)) == []


@pytest.mark.parametrize(
    "source",
    [
        'raise ConfigError("two  spaces.")',
        'raise ConfigError("one clause,and another.")',
        'warnings.warn("no full stop", UserWarning)',
    ],
)
def test_finds_slips(source):
    assert len(list(slips(source))) == 1


def test_leaves_names_with_dots_alone():
    source = 'raise ConfigError(f"Call trimtab.optim.f(model), got {x}. Then e.g. this.")'

    assert list(slips(source)) == []
