"""The largest eigenvalue, against a dense solver."""

import pytest
import torch

from trimtab.preflight._lanczos import largest_eigenvalue


def symmetric(values, generator):
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator))[0]
    return basis @ torch.diag(torch.tensor(values)) @ basis.T


@pytest.mark.parametrize(
    "values",
    [
        [5.0, 4.9, 1.0, 0.5, 0.1, 0.0, -1.0, -2.0],
        [1.0, 0.1, 0.1, -7.0, -0.1, 0.0, 0.2, 0.3],  # the largest in size is negative
        [3.0] * 8,
    ],
)
def test_matches_the_dense_solver(values, generator):
    matrix = symmetric(values, generator)

    found, products = largest_eigenvalue(
        lambda v: [matrix @ v[0]], [torch.zeros(8)], tolerance=1e-4, generator=generator
    )

    assert found == pytest.approx(max(values), rel=1e-3)
    assert 1 <= products <= 9


def test_vectors_may_have_parts(generator):
    found, _ = largest_eigenvalue(
        lambda v: [2 * v[0], 6 * v[1]], [torch.zeros(3, 2), torch.zeros(4)], generator=generator
    )

    assert found == pytest.approx(6, rel=1e-4)


def test_operator_of_zero():
    assert largest_eigenvalue(lambda v: [0 * v[0]], [torch.zeros(3)]) == (0.0, 1)


def test_is_the_same_each_time():
    matrix = torch.diag(torch.arange(20.0))
    found = [largest_eigenvalue(lambda v: [matrix @ v[0]], [torch.zeros(20)]) for _ in range(2)]

    assert found[0] == found[1]


def test_stops_when_told(generator):
    matrix = torch.diag(torch.arange(200.0))

    _, products = largest_eigenvalue(
        lambda v: [matrix @ v[0]],
        [torch.zeros(200)],
        max_iterations=4,
        tolerance=0.0,
        generator=generator,
    )

    assert products == 4
