"""Optimizer, schedule and recorder as the settings ask for them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from trimtab.engine import Stepper, describe_run
from trimtab.findings import Finding
from trimtab.guard import Guard, as_guard
from trimtab.optim import param_groups, schedule
from trimtab.rules import Judge, describe_setup, note_finding
from trimtab.signals import Recorder, RunWriter, as_watch
from trimtab.train._config import OptimizerConfig
from trimtab.train._folder import RunFolder
from trimtab.train._task import RecipeConfig
from trimtab.train._toml import to_plain


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return fused AdamW over the model's parameters, with decay on weight matrices only."""
    return torch.optim.AdamW(
        param_groups(model, config.weight_decay),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, total_steps: int
) -> LRScheduler:
    """Return the configured schedule over `total_steps` steps.

    Raises:
        ConfigError: The warm-up is longer than the run.
    """
    warmup = config.warmup_steps(total_steps)
    if config.schedule == "constant":
        return schedule("warmup_constant", optimizer, warmup_steps=warmup)
    name = {"cosine": "warmup_cosine", "linear": "warmup_linear", "wsd": "wsd"}[config.schedule]
    return schedule(
        name,
        optimizer,
        warmup_steps=warmup,
        total_steps=total_steps,
        min_ratio=config.min_lr_ratio,
    )


def build_guard(config: RecipeConfig, folder: RunFolder) -> Guard | None:
    """Return what keeps the run alive; None if it shall not be guarded."""
    name = config.run.guard
    if name == "none":
        return None
    return replace(as_guard(name) or Guard(), out=folder.incidents)


def build_recorder(
    model: nn.Module, optimizer: torch.optim.Optimizer, every: int
) -> Recorder | None:
    """Return what records every layer each `every` steps; None for 0."""
    if not every:
        return None
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return Recorder(model, params, watch=as_watch(every))


def open_writer(stepper: Stepper, config: RecipeConfig, folder: RunFolder) -> RunWriter | None:
    """Return what writes the recorder's measurements into the run folder; None without one.

    Raises:
        ConfigError: pyarrow is missing.
    """
    recorder = stepper.recorder
    if recorder is None:
        return None
    info = describe_run(
        stepper.model,
        [stepper.optimizer],
        recorder,
        clipper=stepper.clipper,
        config=to_plain(config),
    )
    writer = RunWriter(folder.path, info=info)
    recorder.sinks.append(lambda record: record.append_to(writer))
    return writer


def build_judge(
    stepper: Stepper, writer: RunWriter | None, tell: Callable[[Finding], None]
) -> Judge | None:
    """Return what judges the recorder's measurements; None without a recorder.

    Args:
        stepper: Whose recorder it listens to.
        writer: Of the run folder, where findings are noted.
        tell: Called with each new finding.
    """
    recorder = stepper.recorder
    if recorder is None:
        return None
    judge = Judge(describe_setup(stepper.model, [stepper.optimizer]))
    judge.listeners.append(lambda finding: tell(finding) if judge.is_cause(finding) else None)
    if writer is not None:
        judge.listeners.append(partial(note_finding, writer))
    recorder.sinks.append(judge.see)
    recorder.on_nonfinite.append(judge.see_source)
    return judge
