"""The comparison: whether the same run resumes with trimtab's own checkpoint."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab.audit._comparison import Comparison
from trimtab.audit._session import Session, train
from trimtab.checkpoint import (
    load_checkpoint,
    restore_random_state,
    save_checkpoint,
    seeded,
)
from trimtab.engine import TrainingSetup
from trimtab.errors import ConfigError

Build = Callable[[int], TrainingSetup]


def resumes_with_checkpoint(build: Build, runs: Comparison, seed: int) -> str:
    """Interrupt the run once more, with everything in a checkpoint, and say how that went.

    Model, optimizer, schedule and random states go through `trimtab.checkpoint`; the batches are
    those of the uninterrupted run. So what still differs is neither of these.

    Args:
        build: From a seed to a fresh setup.
        runs: As the user's own functions made them.
        seed: Of the run.

    Returns:
        A sentence.
    """
    if runs.unrepeated is not None:
        return "not tried, as the run cannot be repeated"
    try:
        session = _resumed(build, runs, seed)
    except (ConfigError, ImportError) as error:
        return f"not tried: {error}"
    except Exception as error:  # noqa: BLE001 # of the user's loop, on a state that save() spoilt
        return f"raised {type(error).__name__}: {error}"
    for number, (one, other) in enumerate(zip(runs.rest, session.steps, strict=False), start=1):
        if one.result != other.result:
            return (
                f"differs from step {runs.stop + number} on: the run depends on more than model, "
                "optimizer, schedule, batches and the random states at the interruption"
            )
    return "equal bit for bit, given the same batches"


def _resumed(build: Build, runs: Comparison, seed: int) -> Session:
    """Go on from a checkpoint of the run at its interruption.

    Raises:
        ConfigError: There is something in the state that a checkpoint cannot hold.
    """
    setup, pairs = runs.first.setup, runs.whole.pairs[runs.stop :]
    if len(pairs) < len(runs.rest):
        raise ConfigError("The batches are too large to keep.")
    state = {
        "parts": {name: part.state_dict() for name, part in _parts(setup).items()},
        "random": runs.whole.random_state,
    }
    with tempfile.TemporaryDirectory(prefix="trimtab-audit-") as folder, seeded(seed):
        model = setup.model.state_dict()
        path = save_checkpoint(Path(folder), runs.stop, model=model, state=state)
        fresh = build(seed)
        _, model, state = load_checkpoint(path)
        fresh.model.load_state_dict(model)
        for name, part in _parts(fresh).items():
            part.load_state_dict(state["parts"][name])
        session = Session(fresh)
        restore_random_state(state["random"])
        train(session, len(runs.rest), pairs)
    return session


def _parts(setup: TrainingSetup) -> dict[str, Any]:
    parts = {"optimizer": setup.optimizer, "schedule": setup.scheduler}
    return {name: part for name, part in parts.items() if part is not None}
