"""A source file as the rules see it: its text, its tree, and what its names stand for."""

import ast
import builtins
import io
import tokenize
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

from trimtab.errors import ConfigError
from trimtab.lint._scopes import Function, Scope, ScopeBuilder, dotted
from trimtab.lint._settle import settle

if TYPE_CHECKING:
    from trimtab.lint._origins import Origins
    from trimtab.lint._trace import Trace

_N = TypeVar("_N", bound=ast.AST)

CONVENTIONAL: Final = {
    "torch": "torch",
    "nn": "torch.nn",
    "F": "torch.nn.functional",
    "optim": "torch.optim",
    "np": "numpy",
}
"""What these names stand for where a fragment does not import them."""


TRAINING_WORDS: Final = (".backward", ".step", ".zero_grad", "loader", "test", "val")
"""A text with none of these neither trains nor evaluates."""


class Source:
    """One file of Python, or a fragment of one.

    Args:
        text: Of the file.
        path: As findings shall name it.
        fragment: The text is the body of one training step, called again and again by a loop that
            is not seen.
        aliases: What names stand for that the text does not import.
        classes: Classes of objects that the text uses and does not make, by name.
        constants: Values of names that the text does not set; conditions on them are settled.

    Raises:
        ConfigError: The text is not Python.
    """

    def __init__(
        self,
        text: str,
        path: str = "<string>",
        *,
        fragment: bool = False,
        aliases: Mapping[str, str] | None = None,
        classes: Mapping[str, str] | None = None,
        constants: Mapping[str, object] | None = None,
    ) -> None:
        self.text = text
        self.path = path
        self.fragment = fragment
        self.given_classes = dict(classes or {})
        try:
            self.tree = settle(ast.parse(text), constants or {}, self.given_classes)
            built = ScopeBuilder(self.tree)
        except (SyntaxError, ValueError, RecursionError) as error:
            line = getattr(error, "lineno", None)
            where = path if line is None else f"{path}, line {line},"
            raise ConfigError(
                f"{where} is not Python that this interpreter can read: "
                f"{getattr(error, 'msg', error)}. Correct it, or leave the file out."
            ) from error
        self._scope_of, self._parent_of = built.scope_of, built.parent_of
        self._nodes = built.nodes
        self.aliases = dict(aliases or {}) | self._imports()
        self.scopes = built.scopes
        self.classes = built.classes
        self.module = built.scopes[self.tree]

    @cached_property
    def lines(self) -> list[str]:
        """The text by lines, with their ends; as `ast` counts them."""
        return list(io.StringIO(self.text, newline=""))

    @cached_property
    def origins(self) -> "Origins":
        """What expressions stand for."""
        from trimtab.lint._origins import Origins

        return Origins(self)

    @cached_property
    def traces(self) -> list["Trace"]:
        """What happens in training, in order."""
        from trimtab.lint._trace import make_traces

        trains = any(word in self.text for word in TRAINING_WORDS)
        return make_traces(self) if trains else []

    def all(self, *kinds: type[_N]) -> Iterator[_N]:
        """Yield every node of these kinds."""
        for kind in kinds:
            yield from self._nodes.get(kind, ())  # type: ignore[misc]

    def _imports(self) -> dict[str, str]:
        """Return what each imported name stands for."""
        found: dict[str, str] = {}
        for plain in self.all(ast.Import):
            for alias in plain.names:
                root = alias.name.partition(".")[0]
                found[alias.asname or root] = alias.name if alias.asname else root
        for node in self.all(ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                found[alias.asname or alias.name] = f"{module}.{alias.name}"
        return found

    @cached_property
    def code(self) -> str:
        """The text without its comments."""
        if "#" not in self.text:
            return self.text
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(self.text).readline))
        except (tokenize.TokenError, IndentationError):
            return self.text
        lines = io.StringIO(self.text).readlines()
        for token in tokens:
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column] + "\n"
        return "".join(lines)

    def mentions(self, *words: str) -> bool:
        """Tell whether one of the words stands anywhere in the text, comments left out."""
        present = [word for word in words if word in self.text]
        return any(self._is_plain(word) for word in present) or (
            bool(present) and any(word in self.code for word in present)
        )

    def _is_plain(self, word: str) -> bool:
        """Tell whether a word stands anywhere with no `#` before it in its line."""
        at = self.text.find(word)
        while at >= 0:
            if "#" not in self.text[self.text.rfind("\n", 0, at) + 1 : at]:
                return True
            at = self.text.find(word, at + 1)
        return False

    def scope_of(self, node: ast.AST) -> Scope:
        """Return the scope a node is in."""
        return self._scope_of[node]

    def parent(self, node: ast.AST) -> ast.AST | None:
        """Return the node around a node."""
        return self._parent_of.get(node)

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, from the inside."""
        parent = self._parent_of.get(node)
        while parent is not None:
            yield parent
            parent = self._parent_of.get(parent)

    def statement(self, node: ast.AST) -> ast.stmt:
        """Return the statement that a node is in."""
        while not isinstance(node, ast.stmt):
            node = self._parent_of[node]
        return node

    def function(self, node: ast.AST) -> Function | None:
        """Return the function that a node is in."""
        scope = self._scope_of[node].node
        return None if isinstance(scope, ast.Module) else scope

    def site(self, node: ast.AST) -> str:
        """Return where a node is in words: `Trainer.fit`, `main`; empty for the module."""
        scope = self._scope_of[node]
        parts = [
            each.name if each.owner is None else f"{each.owner.name}.{each.name}"
            for each in scope.chain()
            if each.name
        ]
        return ".".join(reversed(parts))

    def qualname(self, node: ast.AST | None) -> str:
        """Return a dotted name with what was imported put in: `torch.nn.functional.softmax`."""
        name = dotted(node)
        root, dot, rest = name.partition(".")
        if root in self.aliases:
            return self.aliases[root] + dot + rest
        if root in CONVENTIONAL and node is not None and not self._scope_of[node].find(root):
            return CONVENTIONAL[root] + dot + rest
        return name

    def called(self, node: ast.AST | None) -> str:
        """Return the last name of what a call calls, if it is none of the file's own.

        `AdamW` for `optim.AdamW(...)`, `softmax` for `F.softmax(x)`; empty for a method of an
        object, and for what the file defines itself.
        """
        func = node.func if isinstance(node, ast.Call) else node
        name = dotted(func)
        if func is None or not name:
            return ""
        root = name.partition(".")[0]
        if root in self.aliases or (root in CONVENTIONAL and not self._scope_of[func].find(root)):
            return self.qualname(func).rpartition(".")[2]
        if isinstance(func, ast.Name):
            scope = self._scope_of[func]
            own = scope.find(root) or scope.find_function(root) or scope.find_class(root)
            known = hasattr(builtins, root) or root[0].isupper() or "*" in self.aliases
            return root if known and not own else ""
        return ""

    def is_expected_to_fail(self, line: int) -> bool:
        """Tell whether a line is in a test's `with pytest.raises(...)` or the like."""
        return any(
            node.lineno <= line <= (node.end_lineno or 0)
            and any("aises" in ast.unparse(i.context_expr) for i in node.items)
            for node in self.all(ast.With)
        )

    def column(self, line: int, offset: int) -> int:
        """Return the column, from 1, of a byte offset in a line."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        if text.isascii():
            return offset + 1
        return len(text.encode()[:offset].decode(errors="replace")) + 1

    def segment(self, node: ast.expr) -> str:
        """Return the text of an expression."""
        return ast.get_source_segment(self.text, node) or ast.unparse(node)


def keyword(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """Return an argument of a call by its name, or by its place."""
    for each in call.keywords:
        if each.arg == name:
            return each.value
    if position is not None and position < len(call.args):
        found = call.args[position]
        return None if isinstance(found, ast.Starred) else found
    return None


def is_constant(node: ast.AST | None, value: object) -> bool:
    """Tell whether a node is exactly this constant."""
    same = isinstance(node, ast.Constant) and type(node.value) is type(value)
    return same and getattr(node, "value", None) == value


def names_in(node: ast.AST | None) -> set[str]:
    """Return every name that an expression reads, and every dotted path."""
    if node is None:
        return set()
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return found | {d for n in ast.walk(node) if isinstance(n, ast.Attribute) and (d := dotted(n))}


def last_name(key: str) -> str:
    """Return the last part of a dotted name, without what is in brackets."""
    return key.partition("[")[0].rpartition(".")[2]
