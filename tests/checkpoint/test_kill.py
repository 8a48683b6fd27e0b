"""Killed at any moment of a save, a run finds its newest checkpoint whole."""

import json
import subprocess
import sys

import pytest

SCRIPT = '''
import json, os, random, signal, sys, time, warnings
from pathlib import Path
import torch
from trimtab.checkpoint import AsyncCheckpointer, list_checkpoints, load_latest, save_checkpoint

torch.set_num_threads(1)
warnings.simplefilter("error")  # a damaged checkpoint that is passed over
folder, kills, saver = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
delays = random.Random(0)


def save_until_killed(step):
    """Save step after step; every third is saved again, every fifth is unhealthy."""
    save = AsyncCheckpointer().save if saver == "async" else save_checkpoint
    while True:
        model = {"weight": torch.full((20_000,), float(step))}
        for _ in range(2 if step % 3 == 0 else 1):
            save(folder, step, model=model, state={"step": step}, healthy=step % 5 != 0)
        os.write(done, step.to_bytes(8, "little"))
        step += 1


step, found = 0, []
save_checkpoint(folder, 0, model={"weight": torch.zeros(20_000)}, state={"step": 0})
for _ in range(kills):
    waiting, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        save_until_killed(step + 1)
    os.close(done)
    os.read(waiting, 8)  # it has begun
    time.sleep(delays.uniform(0, 0.05))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    reported = step + 1
    while data := os.read(waiting, 8):
        reported = int.from_bytes(data, "little")
    os.close(waiting)
    hidden = [p.name for p in folder.glob(".*")]
    step, model, state = load_latest(folder)
    whole = state == {"step": step} and bool((model["weight"] == step).all())
    found.append([reported, step, whole, len(list_checkpoints(folder)), hidden])
save_checkpoint(folder, step + 1, model={}, state={}, keep=1)
print(json.dumps({"found": found, "left": sorted(p.name for p in folder.iterdir())}))
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.parametrize("saver", ["save_checkpoint", "async"])
def test_the_newest_checkpoint_is_whole_after_every_kill(tmp_path, saver):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), "25", saver]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    results = json.loads(ended.stdout)
    assert len(results["found"]) == 25
    for reported, step, whole, kept, _ in results["found"]:
        assert whole
        # Nothing that was reported as saved is lost; in the background, the last is under way.
        assert step >= reported - (saver == "async")
        assert kept <= 4  # two healthy, one unhealthy, and one that was to go
    interrupted = [hidden for *_, hidden in results["found"] if hidden]
    assert len(interrupted) > 5  # else no kill came in the middle of a save
    newest = results["found"][-1][1] + 1
    assert results["left"] == [f"step-{newest:08d}"]
