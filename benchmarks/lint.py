"""How often `trimtab check` speaks on code that is known to be good, and how fast it is.

Every finding was looked at by hand; `lint_reviewed.json` holds the verdicts: `fault` (what the
finding says is so, and does harm), `harmless` (it is so, and does no harm there: tests, numerical
comparisons) and `false` (it is not so). A finding without a verdict is counted as `unreviewed`.

    pip download --no-deps -r benchmarks/lint_packages.txt   # and unpack into a folder
    python benchmarks/lint.py --also FOLDER
"""

import argparse
import importlib.util
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import measure
import torch

from trimtab.errors import ConfigError
from trimtab.findings import Finding
from trimtab.lint import lint_source
from trimtab.lint._lint import LIBRARIES
from trimtab.lint._paths import read_text

INSTALLED = (
    "accelerate",
    "lightning",
    "pytorch_lightning",
    "torch",
    "torchmetrics",
    "transformers",
)
REVIEWED = Path(__file__).parent / "lint_reviewed.json"


def folders(also: list[Path]) -> dict[Path, Path]:
    """Return each folder to be read, with the one that its paths are told from."""
    found: dict[Path, Path] = {}
    for name in INSTALLED:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folder = Path(spec.submodule_search_locations[0])
            found[folder] = folder.parent
    for root in also:
        found |= {folder: root for folder in sorted(root.iterdir()) if folder.is_dir()}
    return found


class Tally:
    """What was read and found."""

    def __init__(self, verdicts: dict[str, str]) -> None:
        self.verdicts = verdicts
        self.files = self.lines = self.read = 0
        self.seconds = 0.0
        self.slowest: tuple[float, str] = (0.0, "")
        self.failed: list[str] = []
        self.findings: list[tuple[str, Finding]] = []

    def add(self, path: Path, root: Path) -> None:
        """Lint one file."""
        name = str(path.relative_to(root))
        try:
            text = read_text(path)
        except ConfigError:
            return
        began = time.process_time()
        try:
            found = lint_source(text, name)
        except ConfigError as error:  # Python 2, templates
            self.failed.append(str(error))
            return
        taken = time.process_time() - began
        self.files += 1
        self.read += any(word in text for word in LIBRARIES)
        self.lines += text.count("\n")
        self.seconds += taken
        self.slowest = max(self.slowest, (taken, name))
        self.findings += [(f"{name}:{f.line} {f.code}", f) for f in found]

    def results(self) -> dict[str, Any]:
        """Return the numbers, with each finding and its verdict."""
        told = [(key, f, self.verdicts.get(key, "unreviewed")) for key, f in self.findings]
        by_rule = {
            code: dict(Counter(v for _, f, v in told if f.code == code))
            for code in sorted({f.code for _, f, _ in told})
        }
        return {
            "files": self.files,
            "files_that_name_torch": self.read,
            "lines": self.lines,
            "cpu_s": round(self.seconds, 1),
            "lines_per_cpu_s": round(self.lines / self.seconds),
            "slowest": {"cpu_s": round(self.slowest[0], 2), "file": self.slowest[1]},
            "not_python": len(self.failed),
            "findings": len(told),
            "findings_per_1000_files": round(1000 * len(told) / self.files, 2),
            "verdicts": dict(Counter(v for _, _, v in told)),
            "severities": dict(Counter(str(f.severity) for _, f, _ in told)),
            "by_rule": by_rule,
            "each": [
                {"where": key, "severity": str(f.severity), "verdict": verdict, "what": f.what}
                for key, f, verdict in told
            ],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--also", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally = Tally(json.loads(REVIEWED.read_text(encoding="utf-8")))
    read = folders(options.also)
    for folder, root in read.items():
        for path in sorted(folder.rglob("*.py")):
            tally.add(path, root)
    results = {"packages": sorted(f.name for f in read), **tally.results()}
    for key, value in results.items():
        if key not in {"each", "packages"}:
            print(f"  {key:<24} {value}")
    for each in results["each"]:
        if each["verdict"] in {"false", "unreviewed"}:
            print(f"  {each['verdict']}: {each['where']}: {each['what']}")
    if not options.no_save:
        measure.RESULTS.mkdir(exist_ok=True)
        measure.save("lint", torch.device("cpu"), results)


if __name__ == "__main__":
    main()
