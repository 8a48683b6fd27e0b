"""What other tools say of the corpus; run by an interpreter that has them installed.

Reads lines `CASE SEED` and answers each with a verdict as one line of JSON. A peer's own words are
mapped to our symptoms and causes below, generously: any symptom that a title may mean counts.

    PYTHONPATH=src PEERS/bin/python benchmarks/faults/peers.py torchmortem < cases.txt
"""

import asyncio
import contextlib
import io
import json
import logging
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.registry import Setup, cases, plain_step
from faults.verdict import Said, Verdict, train

TIMEOUT_S: Final = 180
"""Longest that a peer may take with one program."""

TORCHMORTEM: Final = {
    "Vanishing gradients": (["vanishing_gradient"], ["vanishing-gradient"]),
    "Exploding gradients": (["exploding_gradient"], ["exploding-gradient"]),
    "Gradient stalling": (["vanishing_gradient", "no_learning"], ["vanishing-gradient"]),
    "Dead units": (["dead_units"], ["dead-units"]),
    "Activation saturation": (["saturated_units"], ["saturated-units"]),
    "Training divergence": (["divergence", "nan"], ["learning-rate-too-high", "nonfinite"]),
    "Loss plateau": (["no_learning", "slow_convergence"], ["learning-rate-too-low"]),
    "Catapult phase": (["oscillating_loss", "loss_spike"], ["learning-rate-too-high"]),
    "Edge of stability": (["oscillating_loss"], ["learning-rate-too-high"]),
    "Update ratio too low": (["slow_convergence", "no_learning"], ["learning-rate-too-low"]),
    "Update ratio too high": (["divergence", "oscillating_loss"], ["learning-rate-too-high"]),
    "Weight norm explosion": (["divergence", "exploding_gradient"], ["weights-grow"]),
    "Stagnant weight norms": (["no_learning"], ["learning-rate-too-low", "no-step"]),
    "Inter-layer weight norm": (["exploding_gradient"], ["unsuited-initialisation"]),
    "High gradient noise": (["oscillating_loss"], []),
    "Rank collapse": (["saturated_units", "dead_units"], []),
}
"""Beginning of a title: symptoms and causes that it may mean."""

TRAINSCOPE: Final = {
    "loss": (["loss_spike"], ["loss-spike"]),
    "grad_norm": (["exploding_gradient"], ["exploding-gradient"]),
    "kurtosis": (["exploding_gradient", "saturated_units"], ["saturated-units"]),
    "concentration": (["silent_config_error"], []),
}
"""Signal of its run report: the same."""


def _stepping(setup: Setup, after: Callable[[float], None]) -> Setup:
    """Return the program with something done after each of its steps."""
    inner = setup.train_step or plain_step
    scheduler = setup.scheduler if setup.train_step is None else None

    def step(model: nn.Module, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> torch.Tensor:
        loss = inner(model, optimizer, loss_fn, x, y)
        after(float(loss))
        if scheduler is not None:
            scheduler.step()
        return loss

    return replace(setup, train_step=step)


def torchmortem(setup: Setup, seed: int, steps: int) -> tuple[list[str], list[Said]]:
    from torchmortem import Autopsy, Severity

    with Autopsy(setup.model, optimizer=setup.optimizer) as autopsy:
        train(_stepping(setup, lambda loss: autopsy.step(loss=loss)), steps=steps, seed=seed)
    report = autopsy.get_report()
    symptoms: list[str] = []
    said = []
    for finding in report.findings:
        if finding.severity < Severity.WARNING:
            continue
        meaning = next((m for t, m in TORCHMORTEM.items() if finding.title.startswith(t)), None)
        found, causes = meaning or ([], [])
        symptoms += found
        place = " ".join(finding.affected_layers)
        message = f"{finding.summary} {' '.join(finding.remediation)}"
        said.append(Said(finding.title, list(causes), place, None, message))  # after the run
    return symptoms, said


def trainscope(setup: Setup, seed: int, steps: int) -> tuple[list[str], list[Said]]:
    from trainscope import TrainScope
    from trainscope.core.config import TrainScopeConfig
    from trainscope.report import build_run_report

    with tempfile.TemporaryDirectory() as folder:
        config = TrainScopeConfig(run_dir=folder)
        scope = TrainScope(setup.model, setup.optimizer, config=config).attach()
        train(_stepping(setup, scope.step), steps=steps, seed=seed)
        scope.detach()
        runs = [Path(folder), *(p for p in Path(folder).iterdir() if p.is_dir())]
        run = next(p for p in runs if (p / "global.arrow").exists())
        report = asyncio.run(build_run_report(run))
    signature = report["signal_signature"]
    symptoms: list[str] = []
    said = []
    for fired in signature["fired"]:
        found, causes = TRAINSCOPE[fired]
        symptoms += found
        step = signature["first_steps"][fired]
        said.append(Said(f"signal {fired}", list(causes), "", step, f"signal {fired} fired"))
    if signature["explosion_step"] is not None:
        symptoms += ["divergence", "nan"]
        causes = ["learning-rate-too-high", "nonfinite"]
        step = signature["explosion_step"]
        said.append(Said("explosion", causes, "", step, "objective explosion of the loss"))
    return symptoms, said


def stabilityguard(setup: Setup, seed: int, steps: int) -> tuple[list[str], list[Said]]:
    from stabilityguard import GuardedOptimizer

    symptoms: list[str] = []
    said = []
    with tempfile.TemporaryDirectory() as folder:
        guard = GuardedOptimizer(setup.optimizer, setup.model, log_dir=folder, verbose=False)
        reports: list[Any] = []
        guard._spike_logger.log_spike = reports.append
        train(replace(setup, optimizer=guard), steps=steps, seed=seed)
    for report in reports:
        broken = bool(report.nan_layers)
        symptoms += ["nan"] if broken else ["exploding_gradient", "loss_spike"]
        causes = ["nonfinite"] if broken else ["exploding-gradient", "loss-spike"]
        place = report.snapshot.spike_layer or ""
        kind = "NaN" if broken else "spike"
        said.append(Said(kind, causes, place, report.snapshot.step, f"gradient {kind} in {place}"))
    return symptoms, said


PEERS: Final = {f.__name__: f for f in (torchmortem, trainscope, stabilityguard)}


def judge(peer: str, name: str, seed: int, steps: int) -> Verdict:
    """Return one peer's verdict of one program; what it raises is kept."""
    setup = cases()[name].setup(seed)
    began = time.perf_counter()
    signal.alarm(TIMEOUT_S)  # whose signal ends the process; the runner starts another
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            symptoms, said = PEERS[peer](setup, seed, steps)
    except Exception as error:  # noqa: BLE001 -- whatever a peer raises is its verdict
        return Verdict(error=f"{type(error).__name__}: {error}"[:200])
    finally:
        signal.alarm(0)
    seconds = time.perf_counter() - began
    return Verdict(sorted(set(symptoms)), said, seconds)


def main() -> None:
    """Answer each line of the standard input."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    peer, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    for line in sys.stdin:
        name, seed = line.split()
        print(json.dumps(judge(peer, name, int(seed), steps).to_dict()), flush=True)


if __name__ == "__main__":
    main()
