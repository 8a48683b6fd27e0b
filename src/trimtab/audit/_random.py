"""Fingerprints of the global random states of torch, NumPy and Python."""

import random

import numpy as np
import torch

from trimtab.audit._fingerprint import fingerprint


def random_fingerprints() -> dict[str, str]:
    """Return fingerprints of the global random states, by whose they are."""
    states = {
        "torch": torch.get_rng_state(),
        "NumPy": np.random.get_state(legacy=False),  # noqa: NPY002 # the user's own
        "Python": random.getstate(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # untyped in torch
        states["CUDA"] = torch.cuda.get_rng_state_all()
    return {name: fingerprint(state) for name, state in states.items()}
