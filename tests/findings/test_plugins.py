import sys
from importlib.metadata import EntryPoint

import pytest

from trimtab.errors import ConfigError
from trimtab.findings import _plugins, registered
from trimtab.findings._plugins import import_installed, import_plugins

RULE = '''
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class Ours(Rule):
    """Ours."""

    code: ClassVar = "ACME001"
    name: ClassVar = "ours"
    symptom: ClassVar = Symptom.NAN
    scope: ClassVar = "run"
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch, registry):
    """Write a module of rules; forget it afterwards."""
    names = []

    def write(name, text=RULE, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        names.append(name)
        return folder

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("below", ["", "src"])
def test_finds_modules_beside_the_settings(plugin, tmp_path, below):
    plugin("acme_rules", folder=tmp_path / below)
    before = list(sys.path)

    import_plugins(["acme_rules"], beside=tmp_path)

    assert list(registered()) == ["ACME001"]
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "The plugin 'acme_broken' cannot be imported: ModuleNotFoundError: No module"),
        ("1 / 0", "The plugin 'acme_broken' cannot be imported: ZeroDivisionError: division by"),
        (RULE.replace("ACME001", "acme"), "two to four capitals and three digits, got 'acme'"),
    ],
)
def test_says_what_is_wrong_with_a_module(plugin, tmp_path, text, message):
    before = list(sys.path)
    if text is not None:
        plugin("acme_broken", text)

    with pytest.raises(ConfigError, match=message):
        import_plugins(["acme_broken"], beside=tmp_path)

    assert sys.path == before


def test_without_a_folder_only_what_is_installed(plugin):
    plugin("acme_rules")

    with pytest.raises(ConfigError, match="Name a module with rules that is installed"):
        import_plugins(["acme_rules"])


def test_rules_of_installed_packages(plugin, monkeypatch):
    folder = plugin("acme_installed")
    monkeypatch.syspath_prepend(folder)
    points = [
        EntryPoint(name="none", value="acme_missing", group="trimtab.rules"),
        EntryPoint(name="acme", value="acme_installed", group="trimtab.rules"),
    ]
    asked = []
    monkeypatch.setattr(_plugins, "entry_points", lambda group: asked.append(group) or points)
    import_installed.cache_clear()
    try:
        with pytest.warns(UserWarning, match="The rules of acme_missing are left out: Module"):
            import_installed()
        import_installed()  # is done
    finally:
        import_installed.cache_clear()

    assert list(registered()) == ["ACME001"]
    assert asked == ["trimtab.rules"]
