"""replay: repeat an incident of a run of a recipe, in a process that knows nothing of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trimtab.checkpoint import seeded
from trimtab.engine import TrainingSetup, replay_bundle
from trimtab.errors import ConfigError
from trimtab.guard import Bundle, Change, Experiment, read_bundle
from trimtab.optim import as_clipper
from trimtab.train._build import build_optimizer, build_schedule
from trimtab.train._config import RunConfig
from trimtab.train._device import pick_device
from trimtab.train._task import Recipe, RecipeConfig
from trimtab.train._toml import apply_settings

T = TypeVar("T")


def replay(
    recipe: Recipe,
    incident: Bundle | Path | str,
    *,
    changes: Sequence[Change] = (),
    device: str | None = None,
) -> list[Experiment]:
    """Repeat an incident of a run of `train`: first as it was, then with each change.

    Model, optimizer, schedule and clipping come from the recipe with the settings of the run, their
    values and the batches from the incident. The data of the run are not needed.

    Args:
        recipe: Of the run.
        incident: Its folder, a file in it, or what `trimtab.guard.read_bundle` returned.
        changes: Each is replayed alone.
        device: Where to replay; None as the run.

    Returns:
        A row for the replay as it was, and one for each change.

    Raises:
        ConfigError: There is no such incident, it is of another recipe or has settings that this
            version does not know, or the device is not there.
        StateError: It is damaged, or holds nothing to replay.
    """
    bundle = incident if isinstance(incident, Bundle) else read_bundle(Path(incident))
    config = _settings(recipe, bundle)
    place = _pick(config.run, device)
    with seeded(config.run.seed):
        task = recipe.build(config, torch.Generator().manual_seed(config.run.seed))

    def build(_: int) -> TrainingSetup:
        task.model.to(place)
        optimizer = build_optimizer(task.model, config.optimizer)
        schedule = build_schedule(optimizer, config.optimizer, config.run.steps)
        return TrainingSetup(task.model, optimizer, task.loss, batches=(), scheduler=schedule)

    def compute(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        inputs, targets = next(iter(batch.values()))
        return task.loss(model, (inputs, targets))

    clipper = as_clipper(config.optimizer.clip or None)
    return replay_bundle(bundle, build, changes=changes, compute=compute, clipper=clipper)


def _settings(recipe: Recipe, bundle: Bundle) -> RecipeConfig:
    """Return the settings of the run.

    Raises:
        ConfigError: It was not a run of this recipe, or of another version of it.
    """
    settings = dict(bundle.config or {})
    name = settings.pop("recipe", None)
    if name != recipe.name:
        of = "no recipe" if name is None else f"the recipe {name!r}"
        raise ConfigError(
            f"Incident {bundle.path} is of {of}, not of {recipe.name!r}. For a loop of your own, "
            "use trimtab.engine.replay_bundle."
        )
    config = apply_settings(recipe.default, settings, str(bundle.path / "config.json"))
    return _without_paths(config, recipe.default)


def _without_paths(config: T, default: T) -> T:
    """Return settings that name no place on the disk of the run, which may be another machine's."""
    changes: dict[str, Any] = {}
    for field in fields(config):  # type: ignore[arg-type] # any dataclass
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if is_dataclass(value):
            changes[field.name] = _without_paths(value, usual)
        elif isinstance(value, Path):
            changes[field.name] = usual
    return replace(config, **changes)  # type: ignore[type-var] # any dataclass


def _pick(run: RunConfig, device: str | None) -> torch.device:
    """Return where to replay.

    Raises:
        ConfigError: The device is not there.
    """
    try:
        return pick_device(device or run.device)
    except ConfigError as error:
        if device is not None:
            raise
        raise ConfigError(
            f"The run was on {run.device}. {error} Replay elsewhere with --device cpu."
        ) from error
