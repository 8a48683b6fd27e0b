import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("args", [["explain", "--all"], ["--help"]])
def test_nobody_reads_the_output(args, tmp_path):
    near, far = os.pipe()
    os.close(near)
    command = [sys.executable, "-m", "trimtab.cli", *args]
    done = subprocess.run(command, stdout=far, stderr=subprocess.PIPE, text=True, check=False)
    os.close(far)
    assert (done.returncode, done.stderr) == (141, "")
