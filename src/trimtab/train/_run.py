"""From a recipe and its settings to a finished run folder."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from trimtab.checkpoint import seeded
from trimtab.engine import new_run_folder
from trimtab.train._device import pick_device
from trimtab.train._folder import RunFolder
from trimtab.train._interrupt import stop_on_signals
from trimtab.train._loop import Training
from trimtab.train._metrics import read_metrics
from trimtab.train._plot import plot_curves
from trimtab.train._progress import Display
from trimtab.train._task import Recipe, RecipeConfig
from trimtab.train._toml import to_plain, to_toml


def train(
    recipe: Recipe,
    config: RecipeConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train a recipe and leave a run folder with everything about it.

    The folder holds `config.toml`, `metrics.csv`, `checkpoints/`, `curves.png` and `summary.json`,
    and `incidents/` if the guard had to act.
    The same settings and seed give the same numbers on a CPU, also when the run was interrupted and
    resumed in between. Torch's global random state and thread count are put back afterwards.

    Args:
        recipe: Model, data and loss.
        config: Its settings.
        resume: Go on with the run in `config.run.out` instead of starting one.
        console: Where progress is shown; default standard error.

    Returns:
        The summary: `recipe`, `stopped` (`"finished"`, `"interrupted"` or `"diverged"`), `steps`,
        `skipped_steps`, `initial_loss`, `final_loss` (mean of the last 10 steps), `val_loss` and
        what else the recipe measures, `tokens`, `seconds`, `num_parameters`, `device`,
        `incidents` (times that the guard acted), `findings` (what is wrong, most causal first,
        a line each), `out`.

    Raises:
        ConfigError: Settings, data or folder cannot work; nothing was written.
    """
    with seeded(config.run.seed), _threads(config.run.threads):
        pick_device(config.run.device)
        config.optimizer.warmup_steps(config.run.steps)
        task = recipe.build(config, torch.Generator().manual_seed(config.run.seed))
        folder = RunFolder(config.run.out or new_run_folder(recipe.name))
        if not resume:
            folder.create(to_toml(config, recipe=recipe.name))
        display = Display(config.run.steps, unit=task.unit, console=console)
        training = Training(task, config, folder=folder, display=display)
        if training.stepper.guard is not None:
            training.stepper.guard.run_config = lambda: {"recipe": recipe.name, **to_plain(config)}
        if resume:
            training.resume()
        _announce(training, recipe, resumed=resume)
        with stop_on_signals() as stop, display.at(training.step):
            stopped = training.run(stop)
        return _conclude(training, recipe, stopped)


def _announce(training: Training, recipe: Recipe, *, resumed: bool) -> None:
    size = sum(p.numel() for p in training.task.model.parameters())
    begins = (
        f"going on at step {training.step}" if resumed else f"{training.config.run.steps} steps"
    )
    training.display.say(
        f"[bold]{recipe.name}[/]: {size / 1e6:.2f} M parameters on {training.device}, "
        f"{training.stepper.precision}, {begins}, into {escape(str(training.folder.path))}"
    )


def _conclude(training: Training, recipe: Recipe, stopped: str) -> dict[str, Any]:
    """Write and return the summary, draw the curves, and say where everything is."""
    task, folder = training.task, training.folder
    summary = {
        "recipe": recipe.name,
        "stopped": stopped,
        "steps": training.step,
        "skipped_steps": training.stepper.skipped_steps,
        "initial_loss": training.initial_loss,
        "final_loss": training.final_loss,
        **training.scores,
        "tokens": training.tokens,
        "seconds": round(training.seconds, 2),
        "num_parameters": sum(p.numel() for p in task.model.parameters()),
        "device": str(training.device),
        "incidents": 0 if training.stepper.guard is None else len(training.stepper.guard.incidents),
        "findings": list(map(str, training.findings)),
        "out": str(folder.path),
    }
    with training.on_disk("the summary and the curves"):
        folder.write_summary(summary)
        plot_curves(
            read_metrics(folder.metrics),
            folder.curves,
            title=f"{recipe.name}: {training.step} steps",
            loss_unit=task.loss_unit,
            clip=training.config.optimizer.clip,
        )
    shown = escape(shlex.quote(str(folder.path)))
    if stopped == "interrupted" and training.saved:
        training.display.say(
            f"Stopped after step {training.step}; everything is saved. Go on with:\n"
            f"  trimtab train --resume --out {shown}"
        )
    elif training.recorder is not None:
        training.display.say(f"See every layer of it: trimtab report {shown}")
    return summary


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
