"""Which rules speak, and with which thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self, get_type_hints

from trimtab.errors import ConfigError
from trimtab.findings._plugins import import_installed, import_plugins
from trimtab.findings._pyproject import project_table
from trimtab.findings._rule import FAMILIES, Rule, Scope, registered
from trimtab.findings._selectors import check_selector, longest_match, nearest, resolve
from trimtab.findings._typed import typed

KEYS: Final = ("ignore", "plugins", "rules", "select")
"""What `[tool.trimtab]` may hold."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rules speak, and with which thresholds.

    A rule is named by its code, by the beginning of its code (`"TT7"` is the whole family) or by
    its name. Where both `select` and `ignore` name a rule, the longer code decides, and `ignore`
    between equals: with `select=["TT7"]` and `ignore=["TT702"]` all of TT7 but one speak. Rules of
    installed packages, from their entry points in the group `trimtab.rules`, are among them.

    Raises:
        ConfigError: Something names no rule or no threshold of a rule, or has the wrong type. What
            is named before the rules of every scope are loaded is taken on trust.
    """

    select: tuple[str, ...] = ()
    """Rules that speak; empty for all."""
    ignore: tuple[str, ...] = ()
    """Rules that are silent."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Thresholds that differ from the rule's own, by rule: `{"TT201": {"max_share": 0.2}}`."""
    plugins: tuple[str, ...] = ()
    """Modules with rules of your own, imported at once."""

    def __post_init__(self) -> None:
        for key in ("select", "ignore", "plugins"):
            object.__setattr__(self, key, _texts(getattr(self, key), key))
        import_plugins(self.plugins)
        if self.select or self.ignore or self.settings:
            import_installed()  # they may be what is named
        for key in ("select", "ignore"):
            for each in getattr(self, key):
                check_selector(each, key)
        _check_settings(self.settings)

    @classmethod
    def from_pyproject(cls, start: str | Path = ".") -> Self:
        """Return what `[tool.trimtab]` of the nearest `pyproject.toml` says.

        Files without that table are passed over, and nothing above the root of a Git repository is
        read. The table may name plugins, and these are imported: give it a folder that you trust.

        Args:
            start: A folder of the project, or a file in one.

        Raises:
            ConfigError: The file cannot be read, or says what cannot be; the message names it.
        """
        found = project_table(Path(start))
        if found is None:
            return cls()
        path, table = found
        try:
            return cls._from_table(table, path.parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: [tool.trimtab] {error}") from error

    @classmethod
    def _from_table(cls, table: Mapping[str, Any], folder: Path) -> Self:
        for key in table:
            if key not in KEYS:
                raise ConfigError(f"has an unknown key {key!r}. {nearest(key, KEYS)}")
        plugins = _texts(table.get("plugins", ()), "plugins")
        import_plugins(plugins, beside=folder)
        return cls(
            select=table.get("select", ()),
            ignore=table.get("ignore", ()),
            settings=table.get("rules", {}),
            plugins=plugins,
        )

    def override(
        self, *, select: Sequence[str] | None = None, ignore: Sequence[str] | None = None
    ) -> Self:
        """Return the selection with a command line's options over it.

        Args:
            select: In place of what was selected; a rule that it names is no longer ignored.
            ignore: Silent as well.

        Raises:
            ConfigError: Something names no rule.
        """
        given = type(self)(select=tuple(select or ()), ignore=tuple(ignore or ()))
        named = {resolve(s) for s in given.select}
        kept = [i for i in self.ignore if resolve(i) not in named]
        return replace(
            self,
            select=self.select if select is None else given.select,
            ignore=tuple(dict.fromkeys([*kept, *given.ignore])),
        )

    def allows(self, code: str) -> bool:
        """Tell whether the rule of this code, or of this name, speaks."""
        wanted = resolve(code)
        chosen = longest_match(self.select, wanted) if self.select else 0
        return chosen > longest_match(self.ignore, wanted)

    def rules(self, scope: Scope) -> list[Rule]:
        """Return the rules of a scope that speak, each with its thresholds, in order of codes.

        Raises:
            ConfigError: A threshold is unknown or has the wrong type.
        """
        import_installed()
        settings = {resolve(key): values for key, values in self.settings.items()}
        return [
            configure(rule, settings.get(code, {}))
            for code, rule in registered(scope).items()
            if self.allows(code)
        ]


def configure(rule: type[Rule], thresholds: Mapping[str, Any]) -> Rule:
    """Return a rule with these thresholds in place of its own.

    Raises:
        ConfigError: One is unknown, has the wrong type, or the rule refuses it.
    """
    hints = get_type_hints(rule)
    known = [f.name for f in fields(rule) if f.init]
    for key in thresholds:
        if key not in known:
            hint = nearest(key, known) if known else "The rule has none."
            raise ConfigError(f"rules.{rule.code} has an unknown threshold {key!r}. {hint}")
    where = f"rules.{rule.code}."
    return rule(**{k: typed(value, hints[k], where + k) for k, value in thresholds.items()})


def _texts(value: object, key: str) -> tuple[str, ...]:
    """Return a list of texts as a tuple.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        example = '["my_rules"]' if key == "plugins" else '["TT2", "loss-spike"]'
        raise ConfigError(f"{key} must be a list of texts such as {example}, got {value!r}.")
    return tuple(v.strip() for v in value)


def _check_settings(settings: object) -> None:
    """Refuse thresholds of what is not one rule, and those that a rule does not take.

    Raises:
        ConfigError: There are such.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"rules must be a table with a table for each rule, got {settings!r}.")
    seen: dict[str, str] = {}
    for key, thresholds in settings.items():
        if not isinstance(thresholds, Mapping):
            raise ConfigError(f"rules.{key} must be a table of thresholds, got {thresholds!r}.")
        check_selector(key, "rules")
        code = resolve(key)
        if code in seen:
            both = f"{seen[code]!r} and {key!r}"
            raise ConfigError(f"rules has {both}, which are the same rule. Join them.")
        seen[code] = key
        rule = registered().get(code)
        if rule is not None:
            configure(rule, thresholds)
        elif code in FAMILIES or any(c.startswith(code) for c in registered()):
            raise ConfigError(
                f"rules has {key!r}, but thresholds belong to one rule. Name it by its full code."
            )
