"""Jupyter notebooks: the code of their cells as one program, and findings told by cell."""

import json
from dataclasses import dataclass
from typing import Any, Final

from trimtab.errors import ConfigError
from trimtab.findings import Finding

MAGIC: Final = ("%", "!", "?")
"""What begins a line of a cell that is for Jupyter, not for Python."""


@dataclass(frozen=True)
class Notebook:
    """The code cells of a notebook, one after another."""

    text: str
    starts: tuple[tuple[int, int], ...]
    """Number of each code cell, from 1 over all cells, and the line its code begins in."""

    def place(self, finding: Finding) -> Finding:
        """Return a finding with its line counted within its cell, and the cell in its site."""
        line = finding.line or 1
        cell, start = max((s for s in self.starts if s[1] <= line), key=lambda s: s[1])
        site = f"cell {cell}" + (f", {finding.site}" if finding.site else "")
        return finding.with_(line=line - start + 1, site=site, remedy=None)


def read_notebook(text: str, path: str) -> Notebook:
    """Return the code of a notebook.

    Args:
        text: Of the `.ipynb` file.
        path: For the message.

    Raises:
        ConfigError: It is no notebook.
    """
    try:
        cells: list[dict[str, Any]] = json.loads(text)["cells"]
        codes = [
            (number, "".join(cell["source"]))
            for number, cell in enumerate(cells, start=1)
            if cell["cell_type"] == "code"
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no Jupyter notebook that can be read: {error!r}. Save it again in format "
            "4, or leave it out."
        ) from error
    lines: list[str] = []
    starts = []
    for number, code in codes:
        starts.append((number, len(lines) + 1))
        lines += _without_magic(code)
    return Notebook("\n".join(lines) + "\n", tuple(starts) or ((1, 1),))


def _without_magic(code: str) -> list[str]:
    """Return the lines of a cell, those for Jupyter as comments of the same length."""
    lines = code.splitlines() or [""]
    if lines[0].startswith("%%") and not lines[0].startswith(("%%time", "%%capture")):
        return ["pass" if i == 0 else "#" for i, _ in enumerate(lines)]
    found = []
    for line in lines:
        bare = line.lstrip()
        indent = line[: len(line) - len(bare)]
        magic = bare.startswith(MAGIC) or (bare.endswith("?") and not bare.startswith("#"))
        found.append(f"{indent}pass  #" if magic else line)
    return found
