import sys

import pytest

from trimtab.audit._target import import_function
from trimtab.errors import ConfigError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with modules, whose imports are forgotten afterwards."""
    (tmp_path / "my_train.py").write_text(
        "import math\nfrom os.path import join\nfrom my_other import NAME\n"
        "def build(seed):\n    return seed + 1\n"
        "class Job:\n    @staticmethod\n    def build(seed):\n        return NAME\n"
        "number = 3\n"
    )
    (tmp_path / "my_other.py").write_text("NAME = 'other'\n")
    (tmp_path / "my_broken.py").write_text("1 / 0\n")
    (tmp_path / "my_lacking.py").write_text("import my_missing_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("target", ["my_train:build", "my_train.py:build", "./my_train.py:build"])
def test_modules_and_files(target):
    assert import_function(target)(1) == 2


def test_a_file_elsewhere_finds_its_neighbours(place, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))

    assert import_function(f"{place}/my_train.py:Job.build")(1) == "other"


def test_two_functions_of_a_file_share_its_module():
    first = import_function("my_train.py:build")

    assert import_function("my_train.py:Job.build").__globals__ is first.__globals__


WRONG = {
    "my_train": "'my_train' does not name a function. Write MODULE:FUNCTION",
    ":build": "does not name a function",
    "my_train:": "does not name a function",
    "my_trian:build": "There is no module 'my_trian' here .* Did you mean 'my_train'",
    "./my_trian.py:build": "There is no file my_trian.py. Did you mean my_train.py",
    "my_train:biuld": "my_train has no 'biuld'. Did you mean 'build'. Functions there: Job, build.",
    "my_train:number": "my_train:number is a int, not a function",
    "my_broken:build": "Importing my_broken fails: ZeroDivisionError: division by zero",
    "my_broken.py:build": "Importing my_broken.py fails: ZeroDivisionError",
    "my_lacking:build": "Importing my_lacking fails: ModuleNotFoundError: .*my_missing_package",
    "nowhere/x.py:build": "There is no file nowhere/x.py.$",
}


@pytest.mark.parametrize(("target", "message"), WRONG.items(), ids=WRONG)
def test_says_what_is_wrong(target, message):
    with pytest.raises(ConfigError, match=message):
        import_function(target)
