import hashlib
import json
import os

import pytest
import torch

from trimtab import StateError
from trimtab.checkpoint import load_checkpoint, mark_checkpoint, save_checkpoint
from trimtab.checkpoint._manifest import _checksum, read_manifest, shard_files


@pytest.fixture
def path(tmp_path):
    model = {"weight": torch.ones(3)}
    return save_checkpoint(tmp_path, 5, model=model, state={"x": [1]}, healthy=False)


def forge(path, change):
    """Change the manifest as somebody would who knows how it is made."""
    content = json.loads((path / "manifest.json").read_bytes())
    change(content)
    content["sha256"] = _checksum(content)
    (path / "manifest.json").write_text(json.dumps(content))


def forge_file(path, name, data):
    """Put in another file, and its checksum into the manifest."""
    (path / name).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    forge(path, lambda content: content["files"].update({name: entry}))


def test_says_what_belongs_to_the_checkpoint(path):
    manifest = read_manifest(path)
    assert (manifest.step, manifest.healthy, manifest.num_ranks) == (5, False, 0)
    assert set(manifest.files) == {"model.safetensors", "state.safetensors", "state.json"}


def test_health_can_be_changed_later(path):
    mark_checkpoint(path, healthy=True)
    assert read_manifest(path).healthy
    assert load_checkpoint(path)[2] == {"x": [1]}


def test_what_trimtab_0_1_wrote_is_healthy(path):
    content = json.loads((path / "manifest.json").read_bytes())
    old = {"format": 1, "step": 5, "files": content["files"]}
    (path / "manifest.json").write_text(json.dumps(old, indent=2))
    assert read_manifest(path).healthy
    assert load_checkpoint(path)[0] == 5


def test_no_flipped_bit_of_it_changes_anything_silently(path):
    file = path / "manifest.json"
    data = file.read_bytes()
    right = read_manifest(path)
    found = 0
    for i in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[i // 8] ^= 1 << i % 8
        file.write_bytes(flipped)
        try:
            assert read_manifest(path) == right  # white space
        except StateError:
            found += 1
    assert found > 0.8 * len(data) * 8


@pytest.mark.parametrize("length", [0, 1, 10, 100, -1])
def test_cut_off(path, length):
    data = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(data[:length])
    with pytest.raises(StateError, match="damaged"):
        read_manifest(path)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "model.pt", "state.pkl", "a/model.safetensors", "", "."]
)
def test_names_that_trimtab_does_not_write_are_refused(path, name):
    forge(path, lambda c: c["files"].update({name: c["files"]["state.json"]}))
    with pytest.raises(StateError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"Checkpoint {path} names {name!r}, which is no file that trimtab writes. It was not read: "
        "it may come from somebody who wants other files read, or code run. Use a checkpoint that "
        "you wrote yourself."
    )


def test_links_out_of_the_folder_are_refused(path, tmp_path):
    (path / "state.json").rename(tmp_path / "elsewhere.json")
    (path / "state.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(StateError, match=r"leads out of its folder: state\.json is a link to"):
        load_checkpoint(path)


def test_a_linked_folder_is_followed(path, tmp_path):
    (tmp_path / "best").symlink_to(path)
    assert load_checkpoint(tmp_path / "best")[0] == 5


def test_pipes_are_not_waited_for(path):
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")
    with pytest.raises(StateError, match=r"state\.json is not a file"):
        load_checkpoint(path)


def test_links_in_a_circle(path):
    (path / "state.json").unlink()
    (path / "state.json").symlink_to("state.json")
    with pytest.raises(StateError, match="damaged"):
        load_checkpoint(path)


def test_a_manifest_that_would_fill_the_memory_is_not_read(path):
    with (path / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(StateError, match=r"manifest\.json has 1099511627776 bytes"):
        load_checkpoint(path)


def test_a_checkpoint_under_the_name_of_another_step(path):
    renamed = path.rename(path.with_name("step-00000006"))
    with pytest.raises(StateError, match=r"name different steps \(5\)"):
        load_checkpoint(renamed)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(step="5"),
        lambda c: c.update(step=True),
        lambda c: c.update(step=-5),
        lambda c: c.update(healthy="no"),
        lambda c: c.update(format=2),
        lambda c: c.update(format=2, ranks=0),
        lambda c: c.update(format=2, ranks=10**12),
        lambda c: c.update(format=3),
        lambda c: c.update(format=[1]),
        lambda c: c.update(extra=1),
        lambda c: c.update(files=[]),
        lambda c: c.update(files={}),
        lambda c: c["files"].pop("state.json"),
        lambda c: c["files"].update({"state.json": 3}),
        lambda c: c["files"]["state.json"].update(bytes=10**30),
        lambda c: c["files"]["state.json"].update(bytes=None),
        lambda c: c["files"]["state.json"].pop("sha256"),
    ],
)
def test_forged_entries(path, change):
    forge(path, change)
    with pytest.raises(StateError, match="Checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["", "[", "null", "5", "[1]", '"a"', "[" * 10**5, "\xff", "{}"])
def test_other_json_as_a_manifest(path, text):
    (path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(StateError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("state.json", b""),
        ("state.json", b"\xff\xfe"),
        ("state.json", b"[]"),
        ("state.json", b'{"model": {}}'),
        ("state.json", b'{"model": [], "state": {}}'),
        ("state.json", b'{"model": {}, "state": {"a": {"__tensor__": "missing"}}}'),
        ("state.json", b'{"model": {}, "state": {"a": {"__tensor__": ["x"]}}}'),
        ("state.json", b'{"model": {}, "state": {"a": {"__tuple__": 5}}}'),
        ("state.json", b'{"model": {}, "state": {"a": {"__pairs__": [[1]]}}}'),
        ("state.json", b'{"model": {}, "state": {"a": {"__pairs__": [[[], 1]]}}}'),
        ("state.json", b'{"model": {}, "state": {"a": {"__bytes__": "***"}}}'),
        ("state.json", b'{"model": {}, "state": ' + b'{"a": ' * 10**5 + b"1" + b"}" * 10**5 + b"}"),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 8),
        ("model.safetensors", (1 << 40).to_bytes(8, "little") + b"{}"),
        ("model.safetensors", (2).to_bytes(8, "little") + b"[]"),
        ("model.safetensors", (1).to_bytes(8, "little") + b"{"),
        ("model.safetensors", b"\x80\x04\x95 a pickle"),
        ("model.safetensors", b"PK\x03\x04 a file of torch.save"),
    ],
)
def test_forged_files_with_the_right_checksum(path, name, data):
    forge_file(path, name, data)
    with pytest.raises(StateError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}',
        '{"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}',
        '{"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}',
        '{"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}',
        "5",
    ],
)
def test_forged_headers_of_tensors(path, entry):
    header = ('{"weight": ' + entry + "}").encode()
    forge_file(path, "model.safetensors", len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(StateError, match="damaged"):
        load_checkpoint(path)


def test_a_pickle_beside_it_is_never_read(path):
    (path / "model.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert load_checkpoint(path)[0] == 5


def test_names_of_shards():
    assert shard_files(1, 2) == {
        "model": "model-00001-of-00002.safetensors",
        "state": "state-00001-of-00002.safetensors",
        "index": "rank-00001-of-00002.json",
    }
