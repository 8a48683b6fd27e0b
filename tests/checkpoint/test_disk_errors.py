import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.checkpoint._disk_errors import explained

FOLDER = Path("runs")


def raised(number, *filename, num_bytes=0):
    with pytest.raises(OSError) as caught, explained(FOLDER, num_bytes):  # noqa: PT011
        raise OSError(number, os.strerror(number), *filename)
    return caught.value


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, PermissionError, "Make it writable or choose another folder"),
        (errno.EROFS, OSError, "Read-only file system. Make it writable or choose another folder"),
        (errno.ENOENT, FileNotFoundError, "The folder was removed, renamed or unmounted while"),
        (errno.ENOSPC, OSError, "go only when it is whole (1,234 bytes). Free some space, lower"),
        (errno.EFBIG, OSError, "allows (1,234 bytes). Raise the limit (ulimit -f)"),
    ],
)
def test_it_says_where_it_was_and_what_can_be_done(number, kind, words):
    error = raised(number, num_bytes=1234)
    assert words in str(error)
    assert str(error).startswith(f"[Errno {number}] {os.strerror(number)}. ")
    assert type(error) is kind
    assert error.filename == "runs"


def test_a_file_that_is_named_stays_named():
    assert raised(errno.ENOSPC, "runs/model").filename == "runs/model"


def test_others_are_passed_on():
    for number in (errno.EIO, errno.EMFILE):
        assert raised(number).strerror == os.strerror(number)
    with pytest.raises(OSError, match="odd"), explained(FOLDER):
        raise OSError("odd")


SCRIPT = """
import json, resource, sys, warnings
from pathlib import Path
import torch
from trimtab.checkpoint import load_latest, save_checkpoint

folder, said = Path(sys.argv[1]), []
state = {"moments": torch.ones(3000), "text": "x" * 16000}
save_checkpoint(folder, 1, model={"weight": torch.ones(5000)}, state=state)
for limit in (50, 5_000, 14_000, 18_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save_checkpoint(folder, 2, model={"weight": torch.zeros(5000)}, state=state, keep=1)
    except OSError as error:
        said.append(str(error))
    weight = load_latest(folder)[1]["weight"]
    assert [p.name for p in folder.iterdir()] == ["step-00000001"] and bool((weight == 1).all())
print(json.dumps(said))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_disk_that_takes_a_part_of_a_file(tmp_path):
    """The system itself cuts off the write, in the middle of one file or of another."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("are larger than this process or file system allows (48") == 4
