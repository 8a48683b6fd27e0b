"""How much memory a run has taken."""

import sys

import torch


def memory_bytes(device: torch.device) -> float:
    """Return the largest memory allocated on an accelerator, or the process's largest resident set.

    Args:
        device: Where the model is.

    Returns:
        Bytes; NaN where nobody can tell.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(largest if sys.platform == "darwin" else largest * 1024)
