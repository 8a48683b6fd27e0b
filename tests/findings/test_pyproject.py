import pytest

from trimtab.errors import ConfigError
from trimtab.findings._pyproject import project_table


def write(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder / "pyproject.toml"


def test_the_nearest_with_the_table(tmp_path):
    top = write(tmp_path, "[tool.trimtab]\nselect = ['TT1']\n")
    write(tmp_path / "a", "[tool.ruff]\nline-length = 100\n")
    near = write(tmp_path / "a" / "b", "[tool.trimtab]\n")
    (tmp_path / "a" / "b" / "train.py").touch()
    (tmp_path / "a" / "c").mkdir()

    assert project_table(tmp_path / "a" / "b") == (near, {})
    assert project_table(tmp_path / "a" / "b" / "train.py") == (near, {})
    assert project_table(tmp_path / "a" / "c") == (top, {"select": ["TT1"]})


def test_stops_at_the_root_of_the_repository(tmp_path):
    write(tmp_path, "[tool.trimtab]\n")
    repository = tmp_path / "a"
    (repository / ".git").mkdir(parents=True)

    assert project_table(repository) is None
    own = write(repository, "[tool.trimtab]\n")
    assert project_table(repository) == (own, {})


@pytest.mark.parametrize("text", ["", "tool = 3\n", "[tool.trimtabs]\n"])
def test_files_without_the_table(tmp_path, text):
    (tmp_path / ".git").mkdir()
    write(tmp_path, text)

    assert project_table(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[tool", "is not a TOML file: "),
        (b"\xff\xfe", "is not a TOML file: "),
        (b"[tool]\ntrimtab = 3\n", "tool.trimtab must be a table, got 3."),
    ],
)
def test_names_the_file_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "pyproject.toml").write_bytes(content)

    with pytest.raises(ConfigError) as raised:
        project_table(tmp_path)

    assert str(tmp_path / "pyproject.toml") in str(raised.value)
    assert message in str(raised.value)
