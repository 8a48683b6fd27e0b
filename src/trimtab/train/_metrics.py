"""The run's numbers on disk: a CSV file that only ever grows by whole lines."""

import csv
import io
import os
from pathlib import Path
from typing import Final

from trimtab.checkpoint import write_atomic

COLUMNS: Final = (
    "step",
    "loss",
    "grad_norm",
    "clip_coefficient",
    "lr",
    "loss_scale",
    "skipped",
    "tokens",
    "seconds",
    "val_loss",
)
"""`grad_norm` is before clipping; `tokens` and `seconds` count from the start of the run;
`val_loss` is empty except where the run was validated."""

Row = dict[str, float | int]


class MetricsFile:
    """Appends one line a step, each in one write that goes straight to the system.

    A killed process leaves whole lines. NaN and infinity are written as such, never as something
    nicer. pandas, polars and DuckDB open the file as it is, also while it is written.

    Args:
        path: Made if missing, with its header.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        if not path.exists():
            write_atomic(path, (",".join(COLUMNS) + "\n").encode())
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append(self, row: Row) -> None:
        """Add one step; columns that it lacks stay empty.

        Raises:
            OSError: The disk is full.
        """
        line = io.StringIO()
        csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(row)
        data = line.getvalue().encode()
        size = os.fstat(self._file).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            os.ftruncate(self._file, size)  # no half lines on a full disk
            raise

    def keep_until(self, step: int) -> None:
        """Drop the lines after `step`, which a resumed run writes again."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in read_metrics(self.path) if row["step"] <= step)
        os.close(self._file)
        write_atomic(self.path, text.getvalue().encode())
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        """Wait until every line is on the disk."""
        os.fsync(self._file)
        os.close(self._file)


def read_metrics(path: Path) -> list[Row]:
    """Return the whole lines of a metrics file; a last line that a crash cut off is left out."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(io.StringIO(whole))
    return [{k: _number(v) for k, v in row.items() if v} for row in rows]


def _number(text: str) -> float | int:
    return int(text) if text.lstrip("-").isdigit() else float(text)
