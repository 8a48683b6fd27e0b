"""The run on the terminal: a bar where there is one, plain lines where there is none."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trimtab.findings import Finding, Severity
from trimtab.train._metrics import Row

LINE_EVERY_S: Final = 10.0
"""Seconds between two plain lines."""


class Display:
    """Shows step, loss, validation loss, gradient norm, learning rate, speed and time left.

    Everything goes to standard error, so that standard output holds results alone.

    Args:
        total: Steps of the whole run.
        unit: What the speed counts.
        console: Where to write; default standard error.
    """

    def __init__(self, total: int, *, unit: str, console: Console | None = None) -> None:
        self.console: Final = console or Console(stderr=True, highlight=False)
        self._total, self._unit = total, unit
        self._val_loss: float | None = None
        self._began = time.perf_counter()
        self._first: Row | None = None
        self._shown_at = 0.0
        self._bar = Progress(
            TextColumn("[bold]step {task.completed}/{task.total}"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            refresh_per_second=8,
        )
        self._task = self._bar.add_task("", total=total)

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """Show the bar, from `step` on."""
        self._bar.update(self._task, completed=step)
        with self._bar:
            yield

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self.console.print(text, soft_wrap=True)

    def validated(self, step: int, scores: Mapping[str, float]) -> None:
        """Show a validation."""
        self._val_loss = scores["val_loss"]
        text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.say(f"[cyan]step {step}[/]  {text}")

    def found(self, finding: Finding) -> None:
        """Show what is wrong; advice is left to the report."""
        if finding.severity is not Severity.ADVICE:
            colour = "red" if finding.severity is Severity.ERROR else "yellow"
            self.say(f"[{colour}]{escape(str(finding))}[/]")

    def step(self, row: Row) -> None:
        """Show one step."""
        now = time.perf_counter()
        if self._first is None:
            self._first, self._began = row, now
        elapsed = max(now - self._began, 1e-9)
        speed = (row["tokens"] - self._first["tokens"]) / elapsed
        parts = [f"loss {row['loss']:.3f}"]
        if self._val_loss is not None:
            parts.append(f"val {self._val_loss:.3f}")
        parts += [f"norm {row['grad_norm']:.2f}", f"lr {row['lr']:.1e}"]
        if speed:
            parts.append(f"{_short(speed)} {self._unit}/s")
        if row["skipped"]:
            self.say(f"[yellow]step {row['step']} skipped[/]: a loss or gradient was not finite")
        self._bar.update(self._task, completed=row["step"], description="  ".join(parts))
        if not self.console.is_terminal and self._line_is_due(now, int(row["step"])):
            steps = row["step"] - self._first["step"]
            if steps:
                parts.append(f"{_clock((self._total - row['step']) * elapsed / steps)} left")
            self.say(f"step {row['step']}/{self._total}  " + "  ".join(parts))

    def _line_is_due(self, now: float, step: int) -> bool:
        due = now - self._shown_at >= LINE_EVERY_S or step == self._total
        if due:
            self._shown_at = now
        return due


def _short(number: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{suffix}"
    return f"{number:.0f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
