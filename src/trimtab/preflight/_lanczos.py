"""The largest eigenvalue of a symmetric operator that is only known by its products."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Vector = list[Tensor]
Operator = Callable[[Vector], Vector]


def largest_eigenvalue(
    apply: Operator,
    like: Sequence[Tensor],
    *,
    max_iterations: int = 30,
    tolerance: float = 0.01,
    generator: torch.Generator | None = None,
) -> tuple[float, int]:
    """Find the largest (not the largest in size) eigenvalue by Lanczos iteration.

    Three vectors are kept and none is orthogonalised against the older ones: that repeats
    eigenvalues which have converged, but does not move the largest one.

    Args:
        apply: The operator, symmetric.
        like: Tensors of the shapes and devices of a vector's parts; real.
        max_iterations: Products at most, at least 1.
        tolerance: Relative change between iterations, twice in a row, at which it stops.
        generator: Of the first vector, on the CPU. None: a fixed one.

    Returns:
        The eigenvalue, and the number of products.

    Source: Paige 1972, "Computational variants of the Lanczos method for the eigenproblem".
    """
    generator = generator or torch.Generator().manual_seed(0)
    vector = [torch.randn(t.shape, generator=generator).to(t.device) for t in like]
    vector = _scaled(vector, 1 / max(_norm(vector), 1e-30))
    previous = [torch.zeros_like(v) for v in vector]
    diagonal: list[float] = []
    beside: list[float] = []
    found, calm = 0.0, 0
    for _ in range(max_iterations):
        image = [a.float() for a in apply(vector)]
        if beside:
            torch._foreach_add_(image, _scaled(previous, -beside[-1]))
        along = _dot(image, vector)
        torch._foreach_add_(image, _scaled(vector, -along))
        diagonal.append(along)
        before, found = found, _top(diagonal, beside)
        calm = calm + 1 if abs(found - before) <= tolerance * abs(found) else 0
        size = _norm(image)
        if calm >= 2 or size <= 1e-7 * max(abs(found), 1e-30):
            break
        beside.append(size)
        previous, vector = vector, _scaled(image, 1 / size)
    return found, len(diagonal)


def _top(diagonal: list[float], beside: list[float]) -> float:
    """Return the largest eigenvalue of a tridiagonal matrix."""
    size = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, value in enumerate(beside[: size - 1]):
        matrix[i, i + 1] = matrix[i + 1, i] = value
    return float(torch.linalg.eigvalsh(matrix)[-1])


def _scaled(vector: Vector, factor: float) -> Vector:
    return list(torch._foreach_mul(vector, factor))


def _dot(a: Vector, b: Vector) -> float:
    return sum(float((x * y).sum(dtype=torch.float64)) for x, y in zip(a, b, strict=True))


def _norm(vector: Vector) -> float:
    return math.sqrt(max(_dot(vector, vector), 0.0))
