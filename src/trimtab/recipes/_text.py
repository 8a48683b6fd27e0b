"""Text as bytes: read from a file, a folder or the standard library, split, cut into batches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.train import Batch

VOCAB_SIZE: Final = 256
"""Every byte is a token: any text in any language can be read, and no tokeniser is needed."""

VALIDATION_SHARE: Final = 0.1
"""The last tenth of the text is never trained on."""


def python_topics() -> bytes:
    """Return the English prose of Python's own documentation, 0.5 MB, which every CPython carries.

    Its topics quote each other; a paragraph is kept where it first stands, so that the validation
    part holds none that was trained on.
    """
    from pydoc_data.topics import topics

    paragraphs: dict[str, str] = {}
    for topic in topics.values():
        for paragraph in topic.split("\n\n"):
            paragraphs.setdefault(paragraph.strip(), paragraph)  # a topic's last ends in a newline
    return "\n\n".join(paragraphs.values()).encode()


def read_text(path: Path) -> bytes:
    """Return a file's text, or that of all text files below a folder, in the order of their names.

    In a folder, hidden files and those that are no text are passed over.

    Raises:
        ConfigError: It is missing, empty, unreadable or no text.
    """
    if not path.exists():
        raise ConfigError(f"There is no file or folder {path}. Pass --data an existing one.")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p, path))
        parts = [text for text in map(_text_or_none, files) if text]
        if not parts:
            raise ConfigError(
                f"The folder {path} holds no text: {len(files)} files were looked at."
            )
        return b"\n".join(parts)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    if not data:
        raise ConfigError(f"The file {path} is empty. Pass --data a text to train on.")
    if not _is_text(data):
        raise ConfigError(
            f"The file {path} is not UTF-8 text but binary. Convert it to text first."
        )
    return data


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _text_or_none(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if _is_text(data) else None


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class TextData:
    """A text in two parts, and the batches cut from it."""

    training: Tensor
    """Bytes, `(num_bytes,)`, uint8."""
    validation: Tensor
    """Bytes never trained on, `(num_bytes,)`, uint8."""
    context: int
    """Tokens in a sequence."""
    seed: int
    """Decides where training sequences begin."""

    @classmethod
    def split(cls, text: bytes, *, context: int, seed: int) -> "TextData":
        """Cut the validation part off the end.

        Raises:
            ConfigError: A part is shorter than one sequence and its next token.
        """
        data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        border = len(data) - max(int(len(data) * VALIDATION_SHARE), context + 1)
        if border < context + 1:
            raise ConfigError(
                f"The text has {len(data)} bytes; with context {context} it needs at least "
                f"{2 * (context + 1)}. Pass --data a longer text, or a smaller --context."
            )
        return cls(data[:border], data[border:], context, seed)

    def batch(self, index: int, batch_size: int) -> Batch:
        """Return the training batch of an index: inputs and next tokens, `(batch, time)` each."""
        # A generator of its own for each index: any batch can be made again without the others.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + index) % 2**63)
        last = len(self.training) - self.context
        starts = torch.randint(last, (batch_size, 1), generator=generator)
        windows = self.training[starts + torch.arange(self.context + 1)].long()
        return windows[:, :-1], windows[:, 1:]

    def validation_windows(self, most: int) -> Tensor:
        """Return up to `most` windows side by side, spread evenly, `(windows, time + 1)`."""
        windows = self.validation.unfold(0, self.context + 1, self.context)
        if len(windows) > most:
            windows = windows[torch.linspace(0, len(windows) - 1, most).long()]
        return windows.long()
