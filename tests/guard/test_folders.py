"""What the guard writes to disk about the incidents of a run."""

import errno
import json
import warnings

import pytest
import torch
from tests.guard.conftest import HUGE, change_gradient, change_weight, once, spoilt

from trimtab.guard import Guard, _folders
from trimtab.guard._bundle import list_bundles, read_bundle


class TestFolders:
    def test_hold_what_repeats_a_skip(self, make_job, tmp_path):
        """Some healthy steps before it as well, for a replay to be judged on."""
        job = make_job(guard=Guard(out=tmp_path)).run(1, 70, bad=spoilt("times 1000", 60))

        (folder,) = list_bundles(tmp_path)
        bundle = read_bundle(folder)
        assert folder.name == "step-00000060"
        first = bundle.snapshot["step"]
        assert bundle.incident.snapshot_step == first
        assert job.incidents[0].snapshot_step is None  # the run did not go back
        assert 60 - _folders.CONTEXT <= first < 60
        assert [b["number"] for b in bundle.batches] == list(range(first + 1, 61))
        assert bundle.batches[-1]["skipped"]
        assert torch.equal(
            bundle.batches[-1]["micro_steps"][0]["batch"]["a"], job.batch(60)[0] * HUGE
        )

    def test_hold_the_state_of_before_a_step_that_was_made_again(self, make_job, tmp_path):
        job = make_job(guard=Guard(out=tmp_path, snapshots=0))
        clean = make_job(guard=None).run(1, 59)

        job.run(1, 70, before=once(60, lambda: change_gradient(job)))

        bundle = read_bundle(list_bundles(tmp_path)[0])
        weight = bundle.snapshot["model"]["0.weight"]
        assert bundle.snapshot["step"] == 59
        assert torch.equal(weight, clean.model[0].weight)

    def test_of_one_streak_are_one(self, make_job, tmp_path):
        job = make_job(guard=Guard(out=tmp_path))
        job.run(1, 90, before=once(60, lambda: change_weight(job)))

        (folder,) = list_bundles(tmp_path)
        incident = json.loads((folder / "incident.json").read_text())
        assert folder.name == "step-00000060"
        assert (incident["kind"], incident["finding"]["code"]) == ("rollback", "TT603")

    def test_are_no_more_than_asked_for(self, make_job, tmp_path):
        guard = Guard(out=tmp_path, keep_incidents=2)

        make_job(guard=guard).run(1, 110, bad=spoilt("times 1000", 60, 70, 80, 90))

        assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000060", "step-00000070"]

    def test_a_return_takes_the_place_of_a_skip(self, make_job, tmp_path):
        job = make_job(guard=Guard(out=tmp_path, keep_incidents=2))

        job.run(
            1,
            110,
            bad=spoilt("times 1000", 60, 70, 80),
            before=once(90, lambda: change_weight(job)),
        )

        assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000070", "step-00000090"]

    def test_hold_the_settings_as_they_are_known_by_then(self, make_job, tmp_path):
        job = make_job(guard=Guard(out=tmp_path))
        job.guard.run_config = lambda: {"recipe": "tiny"}

        job.run(1, 70, bad=spoilt("nan", 60))

        assert read_bundle(list_bundles(tmp_path)[0]).config == {"recipe": "tiny"}

    @pytest.mark.parametrize("keep", [0, 3])
    def test_without_a_place_nothing_is_written(self, make_job, tmp_path, keep):
        out = tmp_path if keep == 0 else None
        make_job(guard=Guard(out=out, keep_incidents=keep)).run(1, 70, bad=spoilt("nan", 60))

        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_is_said_once_and_training_goes_on(self, make_job, tmp_path, monkeypatch):
        def full(*_args, **_options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(_folders, "write_bundle", full)
        job = make_job(guard=Guard(out=tmp_path))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            job.run(1, 100, bad=spoilt("times 1000", 60, 70, 80))

        said = [str(w.message) for w in caught if "could not be written" in str(w.message)]
        assert said == [
            f"The incident of step 60 could not be written to {tmp_path}: No space left on device. "
            "It is in memory, and training goes on."
        ]
        assert [i.step for i in job.incidents] == [60, 70, 80]
        assert job.results[-1].stepped
