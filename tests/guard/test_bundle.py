import csv
import errno
import importlib.util
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from trimtab.errors import ConfigError, StateError
from trimtab.guard import _bundle
from trimtab.guard._bundle import FORMAT, MANIFEST, list_bundles, read_bundle, write_bundle

FILES = {
    "batches.json",
    "batches.safetensors",
    "config.json",
    "environment.json",
    "incident.html",
    "incident.json",
    "signals.csv",
    "snapshot.json",
    "snapshot.safetensors",
}


def neighbour(name):
    """Import a test file beside this one; tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


incident = neighbour("test_incident").incident


def snapshot(**changes):
    return {
        "model": {"weight": torch.ones(2, 3), "count": torch.tensor(4)},
        "buffers": {},
        "optimizers": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}],
        "parts": {"clipper": {"betas": (0.9, 0.99)}},
        "random": {"cpu": torch.get_rng_state()},
    } | changes


def batch(number, x, y):
    micro_step = {
        "batch": {"x": x, "y": y},
        "weight": 8.0,
        "factor": torch.tensor(2.0),
        "random": {"cpu": torch.get_rng_state()},
    }
    return {
        "number": number,
        "micro_steps": [micro_step],
        "settings": [{"lr": 0.1, "betas": (0.9, 0.99)}],
        "divisor": 8.0,
        "loss": math.nan,
        "norm": math.inf,
        "skipped": True,
    }


@pytest.fixture
def text():
    return torch.arange(10)


@pytest.fixture
def bundle(tmp_path, text):
    return write_bundle(
        tmp_path / "incidents",
        incident(),
        snapshot=snapshot(),
        batches=[batch(151, text[:-1], text[1:])],
        config={"recipe": "gpt", "run": {"steps": 300, "lr": math.inf}},
    )


def test_all_comes_back(bundle, text):
    assert bundle.name == "step-00000151"
    assert {p.name for p in bundle.iterdir()} == FILES | {MANIFEST}

    read = read_bundle(bundle)

    assert json.dumps(read.incident.to_dict()) == json.dumps(incident().to_dict())
    assert read.config == {"recipe": "gpt", "run": {"steps": 300, "lr": "inf"}}
    assert read.environment["torch"] == torch.__version__
    assert read.left_out == ()
    assert torch.equal(read.snapshot["model"]["weight"], torch.ones(2, 3))
    assert read.snapshot["optimizers"][0]["state"][0]["step"] == 3
    assert read.snapshot["parts"] == {"clipper": {"betas": (0.9, 0.99)}}
    (step,) = read.batches
    (micro_step,) = step["micro_steps"]
    assert torch.equal(micro_step["batch"]["x"], text[:-1])  # views of one text
    assert torch.equal(micro_step["batch"]["y"], text[1:])
    assert torch.equal(micro_step["random"]["cpu"], torch.get_rng_state())
    assert math.isnan(step["loss"])
    assert step["norm"] == math.inf
    assert step["settings"] == [{"lr": 0.1, "betas": (0.9, 0.99)}]


def test_is_found_by_its_page_too(bundle):
    assert read_bundle(bundle / "incident.html").path == bundle


def test_signals_are_a_table(bundle):
    with (bundle / "signals.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))

    assert rows == [["step", "loss"], ["150.0", "1.5"], ["151.0", "nan"]]


def test_the_page_says_how_to_repeat_it(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    path = write_bundle(
        Path("runs/a"),
        incident(),
        snapshot=snapshot(),
        batches=[batch(151, text, text)],
        config={"recipe": "gpt"},
    )

    page = (path / "incident.html").read_text(encoding="utf-8")

    assert "trimtab replay runs/a/step-00000151" in page
    assert str(tmp_path) not in page


def test_a_report_alone_can_be_written(tmp_path):
    path = write_bundle(tmp_path, incident(), snapshot=None)

    read = read_bundle(path)

    assert (read.snapshot, read.batches, read.config) == (None, (), None)
    assert "trimtab replay" not in (path / "incident.html").read_text(encoding="utf-8")


def test_nothing_recorded_is_overwritten(tmp_path):
    names = [write_bundle(tmp_path, incident(), snapshot=None).name for _ in range(3)]

    assert names == ["step-00000151", "step-00000151-2", "step-00000151-3"]
    assert [p.name for p in list_bundles(tmp_path)] == names


def test_more_that_is_known_takes_the_place_of_less(tmp_path, monkeypatch):
    first = write_bundle(tmp_path, incident(kind="skip"), snapshot=None)

    assert write_bundle(tmp_path, incident(), snapshot=snapshot(), replaces=first) == first

    assert read_bundle(first).incident.kind == "rollback"
    assert list(tmp_path.iterdir()) == [first]
    monkeypatch.setattr(_bundle, "write_synced", fail)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(tmp_path, incident(kind="stop"), snapshot=None, replaces=first)
    assert read_bundle(first).incident.kind == "rollback"


def fail(path, data):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_only_the_newest_are_kept(tmp_path):
    other = tmp_path / "step-00000001"
    other.mkdir()  # not ours: no manifest
    paths = [
        write_bundle(tmp_path, incident(step=step), snapshot=None, keep=2) for step in (30, 20, 40)
    ]

    assert list_bundles(tmp_path) == paths[1:]
    assert other.exists()


def test_keep_has_to_be_positive(tmp_path):
    with pytest.raises(ConfigError, match=r"keep must be at least 1, got 0\. None keeps all"):
        write_bundle(tmp_path, incident(), snapshot=None, keep=0)

    assert list(tmp_path.iterdir()) == []


def test_what_only_pickling_saves_is_left_out_and_named(tmp_path):
    odd = batch(151, object(), torch.ones(1))
    path = write_bundle(
        tmp_path,
        incident(),
        snapshot=snapshot(parts={"mine": {"a": object()}, "clipper": {}}, left_out=["parts.x.y"]),
        batches=[odd],
    )

    read = read_bundle(path)

    assert read.snapshot["parts"] == {"clipper": {}}
    assert read.batches[0]["micro_steps"][0]["batch"] is None
    assert read.batches[0]["micro_steps"][0]["weight"] == 8
    assert [text.partition(": ")[0] for text in read.left_out] == [
        "parts.x.y",
        "state of mine",
        "batch of step 151",
    ]
    assert "state of mine" in (path / "incident.html").read_text(encoding="utf-8")


def test_an_incident_is_written_whatever_its_state_holds(tmp_path, text):
    steps = [batch(151, text, text) | {"settings": [{"lr": object()}]}]
    odd = snapshot(optimizers=[{"state": object()}])

    read = read_bundle(write_bundle(tmp_path, incident(), snapshot=odd, batches=steps))

    assert (read.snapshot, read.batches) == (None, ())
    assert [text.partition(": ")[0] for text in read.left_out] == ["snapshot", "batches"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    real = _bundle.write_synced
    for fails_at in range(7):
        left = iter(range(7))

        def write(path, data, left=left, fails_at=fails_at):
            if next(left) == fails_at:
                path.write_bytes(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            real(path, data)

        monkeypatch.setattr(_bundle, "write_synced", write)
        with pytest.raises(OSError, match="No space left"):
            write_bundle(tmp_path / "incidents", incident(), snapshot=snapshot())

        assert list((tmp_path / "incidents").iterdir()) == []


@pytest.mark.parametrize("name", sorted(FILES | {MANIFEST}))
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "empty", "link"])
def test_a_damaged_file_is_never_read(bundle, tmp_path, name, damage):
    file = bundle / name
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        place = len(data) // 3
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
    elif damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.rename(tmp_path / name)
        file.symlink_to(tmp_path / name)
    expected = ConfigError if (name, damage) == (MANIFEST, "missing") else StateError

    with pytest.raises(expected, match=str(bundle)):
        read_bundle(bundle)


def change_manifest(bundle, **changes):
    path = bundle / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def put(bundle, name, data):
    """Replace a file and its checksum, as somebody does who means harm."""
    (bundle / name).write_bytes(data)
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    files[name] = {"bytes": len(data), "sha256": _bundle._sum(data)}
    change_manifest(bundle, files=files)


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "model.pt", "a/b.json", "x.pkl"])
def test_a_name_that_no_bundle_has_is_refused(bundle, name):
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    change_manifest(bundle, files=files | {name: files["incident.json"]})

    with pytest.raises(StateError, match="names a file that no bundle has"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("incident.json", b"[" * 100_000 + b"]" * 100_000),
        ("incident.json", b"[1, 2]"),
        ("incident.json", b'{"step": 1}'),
        ("incident.json", b"\xff\xfe"),
        ("snapshot.json", b'{"model": {"__tensor__": "none"}}'),
        ("snapshot.json", b"[" * 100_000 + b"]" * 100_000),
        ("snapshot.safetensors", b"\xff" * 64),
        ("snapshot.safetensors", b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a."),
        ("batches.json", b"17"),
    ],
)
def test_harmful_content_is_refused(bundle, name, data):
    put(bundle, name, data)

    with pytest.raises(StateError, match=f"Incident {bundle} is damaged"):
        read_bundle(bundle)


def test_a_file_that_every_bundle_has_may_not_be_left_unnamed(bundle):
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    del files["environment.json"]
    change_manifest(bundle, files=files)

    with pytest.raises(StateError, match=r"environment\.json is missing"):
        read_bundle(bundle)


def test_another_format_is_named(bundle):
    change_manifest(bundle, format=FORMAT + 1)

    with pytest.raises(StateError, match=f"has format trimtab incident {FORMAT + 1}, this version"):
        read_bundle(bundle)


def test_a_folder_without_an_incident_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_bundle(tmp_path)

    assert str(caught.value) == (
        f"{tmp_path} holds no incident: it has no manifest.json. Name the folder of one, such as "
        "runs/NAME/incidents/step-00000151."
    )


def test_a_copied_bundle_is_as_good(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "elsewhere")

    assert read_bundle(copy).incident.step == 151


def test_there_are_no_bundles_in_no_folder(tmp_path):
    assert list_bundles(tmp_path / "none") == []
