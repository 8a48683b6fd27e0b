"""Words that name rules: a code, the beginning of one, or a name."""

import difflib
import re
from collections.abc import Iterable
from typing import Final, get_args

from trimtab.errors import ConfigError
from trimtab.findings._rule import FAMILIES, Scope, registered

_CODE: Final = re.compile(r"[A-Z]{1,4}[0-9]{0,3}")
_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def resolve(selector: str) -> str:
    """Return a rule's code for its name, and anything else in the spelling of codes or names."""
    lower, upper = selector.strip().lower(), selector.strip().upper()
    for code, rule in registered().items():
        if rule.name == lower:
            return code
    return upper if _CODE.fullmatch(upper) else lower


def longest_match(selectors: Iterable[str], code: str) -> int:
    """Return the length of the longest selector that names the code; -1 if none does."""
    return max((len(s) for s in map(resolve, selectors) if code.startswith(s)), default=-1)


def check_selector(selector: str, key: str) -> None:
    """Refuse what names no rule; what may name one that is not loaded yet is taken on trust.

    Args:
        selector: Code, beginning of a code, or name.
        key: Named in the message.

    Raises:
        ConfigError: There is no such rule; the message names the nearest.
    """
    wanted = resolve(selector)
    rules = registered()
    if wanted and any(code.startswith(wanted) for code in [*rules, *FAMILIES]):
        return
    well_formed = _CODE.fullmatch(wanted) or _NAME.fullmatch(wanted)
    if well_formed and not all(registered(scope) for scope in get_args(Scope)):
        return
    known = [*rules, *(rule.name for rule in rules.values()), *FAMILIES]
    words = {word.lower(): word for word in known}
    near = difflib.get_close_matches(selector.strip().lower(), words, n=1, cutoff=0.5)
    hint = f"Did you mean {words[near[0]]!r}? " if near else ""
    raise ConfigError(
        f"{key} has {selector!r}, which is neither a rule's code, nor the beginning of one, nor a "
        f"rule's name. {hint}'trimtab explain --all' lists them all."
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a sentence with the known word that is most like this one, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known are: {', '.join(known)}."
