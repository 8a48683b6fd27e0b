"""What a function's bytecode reads, in the order in which it does."""

import dis
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import Final, Literal, NamedTuple

Kind = Literal["cell", "global", "local"]

_NAMES: Final[dict[str, Kind]] = {
    "LOAD_DEREF": "cell",
    "LOAD_CLASSDEREF": "cell",
    "LOAD_FROM_DICT_OR_DEREF": "cell",
    "LOAD_GLOBAL": "global",
    "LOAD_NAME": "global",
    "LOAD_FROM_DICT_OR_GLOBALS": "global",
}

_STORES: Final[dict[str, Kind]] = {"STORE_DEREF": "cell", "STORE_GLOBAL": "global"}

_CODES_KEPT: Final = 512
"""Functions whose bytecode is remembered; a program has a handful of loss functions."""


class Read(NamedTuple):
    """One variable that a function reads."""

    kind: Kind
    """A variable of the function around it, one of its module, or one of its own."""
    name: str
    attribute: str | None
    """What is read of it, as in `self.x`; None for the thing itself."""


@lru_cache(maxsize=_CODES_KEPT)
def reads_of(code: CodeType) -> tuple[Read, ...]:
    """Return what code reads, functions within it included, each once, in the order of use.

    Of the variables of functions within it, only those that come from outside. What the code itself
    assigns first is its own doing and is left out.
    """
    found: dict[Read, None] = {}
    own: set[tuple[Kind | None, str]] = set()
    for event in _walk(code):
        if not isinstance(event, Read):
            own.add(event)
        elif (event.kind, event.name) not in own and (None, event.attribute) not in own:
            found.setdefault(event)
    return tuple(found)


@lru_cache(maxsize=_CODES_KEPT)
def uses_of(code: CodeType) -> dict[tuple[Kind, str], frozenset[str | None]]:
    """Return the variables that code reads, with the attributes that it asks of each."""
    uses: dict[tuple[Kind, str], frozenset[str | None]] = {}
    for read in reads_of(code):
        key = (read.kind, read.name)
        uses[key] = uses.get(key, frozenset()) | {read.attribute}
    return uses


def _walk(code: CodeType) -> Iterator[Read | tuple[Kind | None, str]]:
    """Yield what is read, and as (kind, name) what is assigned; an attribute has no kind."""
    waiting: list[Read] = []  # what was loaded last: of it, an attribute may be meant
    for step in dis.get_instructions(code):
        if step.opname in {"CACHE", "NOP", "EXTENDED_ARG", "COPY"}:  # COPY: in `self.n += 1`
            continue
        if step.opname in {"LOAD_ATTR", "LOAD_METHOD"} and waiting:
            waiting[-1] = waiting[-1]._replace(attribute=str(step.argval))
        elif step.opname == "STORE_ATTR":
            yield None, str(step.argval)
            waiting = []  # whose attribute it is
            continue
        yield from waiting
        waiting = []
        if isinstance(step.argval, CodeType):
            yield from (r for r in reads_of(step.argval) if r.kind != "local")
        elif step.opname in _NAMES:
            waiting = [Read(_NAMES[step.opname], str(step.argval), None)]
        elif step.opname in _STORES:
            yield _STORES[step.opname], str(step.argval)
        elif "LOAD_FAST" in step.opname and step.opname != "LOAD_FAST_AND_CLEAR":
            # From 3.13 on, one instruction may load two, or store one and load another, and cells
            # for functions within are loaded like this too.
            names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
            names = names[1:] if step.opname.startswith("STORE") else names
            waiting = [Read("local", str(n), None) for n in names if n not in code.co_freevars]
    yield from waiting
