import pytest
import torch

from trimtab import ConfigError
from trimtab.recipes._text import TextData, python_topics, read_text


def test_the_default_text_is_english_prose():
    text = python_topics().decode()
    assert len(text) > 300_000
    assert text.count(" the ") > 2000  # CPython 3.11 carries the fewest


def test_no_paragraph_of_the_validation_part_was_trained_on():
    data = TextData.split(python_topics(), context=128, seed=0)
    training, validation = (
        {p.strip() for p in bytes(part.tolist()).decode(errors="replace").split("\n\n")}
        for part in (data.training, data.validation)
    )
    assert not {p for p in training & validation if len(p) > 20}


def test_the_parts_do_not_overlap_and_make_the_whole():
    text = bytes(range(200)) * 5
    data = TextData.split(text, context=8, seed=0)
    assert bytes(torch.cat([data.training, data.validation]).tolist()) == text
    assert len(data.validation) == 100


def test_targets_are_the_next_tokens():
    data = TextData.split(bytes(range(250)), context=10, seed=0)
    inputs, targets = data.batch(3, batch_size=4)
    assert inputs.shape == targets.shape == (4, 10)
    assert torch.equal(targets, inputs + 1)
    assert inputs.max() < 225


def test_every_training_byte_can_be_drawn():
    data = TextData.split(bytes(range(40)), context=4, seed=0)
    seen = {int(t) for i in range(50) for part in data.batch(i, 8) for t in part.flatten()}
    assert seen == set(range(len(data.training)))


def test_a_batch_depends_on_seed_and_index_alone():
    a, b = (TextData.split(bytes(range(250)), context=10, seed=s) for s in (0, 1))
    assert torch.equal(a.batch(7, 4)[0], a.batch(7, 4)[0])
    assert not torch.equal(a.batch(7, 4)[0], a.batch(8, 4)[0])
    assert not torch.equal(a.batch(7, 4)[0], b.batch(7, 4)[0])


def test_validation_windows_stand_side_by_side():
    data = TextData.split(bytes(range(200)), context=5, seed=0)
    windows = data.validation_windows(100)
    assert windows.shape == (3, 6)
    assert windows[:, 0].tolist() == [180, 185, 190]
    assert len(data.validation_windows(2)) == 2


class TestFiles:
    def test_a_file(self, tmp_path):
        (tmp_path / "a.txt").write_text("grüße")
        assert read_text(tmp_path / "a.txt").decode() == "grüße"

    def test_a_folder_in_order_without_what_is_no_text(self, tmp_path):
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "b.md").write_text("second")
        (tmp_path / "a.txt").write_text("first")
        (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
        (tmp_path / ".hidden").write_text("no")
        (tmp_path / "empty").write_text("")
        assert read_text(tmp_path) == b"first\nsecond"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"abc\0def", "binary"),
            (b"\xff\xfe\xfa", "binary"),
        ],
    )
    def test_bad_files(self, tmp_path, content, message):
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            read_text(path)

    def test_missing(self, tmp_path):
        with pytest.raises(ConfigError, match="There is no file or folder"):
            read_text(tmp_path / "nothing")

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(ConfigError, match="holds no text: 0 files"):
            read_text(tmp_path)

    def test_a_short_text(self):
        with pytest.raises(ConfigError, match=r"has 20 bytes; with context 128 .* least 258"):
            TextData.split(b"x" * 20, context=128, seed=0)
