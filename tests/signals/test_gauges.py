import math

import numpy as np
import pytest
import torch

from trimtab.signals._gauges import (
    ABSENT,
    ACTIVATION_COLUMNS,
    CHUNK,
    PARAMETER_COLUMNS,
    Drift,
    activation_gauges,
    parameter_gauges,
)

NO_BOUNDS = (math.nan, math.nan)


def padded(rows, size):
    matrix = torch.full((len(rows), size), ABSENT)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


def reference(x, bounds=NO_BOUNDS):
    """All activation gauges of one module in float64, element by element."""
    total = len(x)
    x = x.double().numpy()
    x = x[np.isfinite(x)]
    low, high = bounds
    margin = 0.01 * (high - low)
    saturated = np.mean((x <= low + margin) | (x >= high - margin)) if low == low else math.nan
    return [
        x.mean(),
        np.sqrt(np.mean(x**2)),
        np.abs(x).max(),
        np.mean(x == 0),
        1 - len(x) / total,
        saturated,
        np.mean((x - x.mean()) ** 4) / x.var() ** 2,
    ]


class TestActivations:
    def test_equals_a_float64_computation(self, generator):
        rows = [
            torch.randn(n, generator=generator) * s + m
            for n, s, m in [(5, 1, 0), (64, 1e-4, 3e-4), (50, 1e4, -2e4), (64, 1, 10)]
        ]
        rows[1][::3] = 0
        rows[2][3] = torch.nan
        rows[2][7] = -torch.inf
        rows *= CHUNK  # several chunks
        bounds = torch.tensor([NO_BOUNDS] * len(rows))
        gauges = activation_gauges(padded(rows, 64), bounds)
        for row, found in zip(rows, gauges.tolist(), strict=True):
            assert found == pytest.approx(reference(row), rel=2e-4, abs=1e-7, nan_ok=True)

    @pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 5.0)])
    def test_planted_saturation(self, bounds, generator):
        low, high = bounds
        x = torch.rand(200, generator=generator) * (high - low) * 0.9 + low + 0.05 * (high - low)
        x[:30], x[30:50] = low, high - 0.005 * (high - low)
        gauges = activation_gauges(x[None], torch.tensor([bounds]))
        assert gauges[0].tolist() == pytest.approx(reference(x, bounds), rel=1e-4)
        assert gauges[0, ACTIVATION_COLUMNS.index("activation.saturation")] == 0.25

    def test_without_a_sample_there_is_no_number(self):
        gauges = activation_gauges(torch.full((2, 8), ABSENT), torch.tensor([NO_BOUNDS] * 2))
        assert gauges.isnan().all()

    def test_nothing_finite(self):
        x = torch.tensor([[torch.nan, torch.inf, ABSENT]])
        gauges = dict(
            zip(ACTIVATION_COLUMNS, activation_gauges(x, torch.tensor([NO_BOUNDS]))[0], strict=True)
        )
        assert gauges["activation.nonfinite_fraction"] == 1
        assert gauges["activation.mean"].isnan()

    def test_constants_have_no_kurtosis(self):
        gauges = activation_gauges(torch.ones(1, 8), torch.tensor([NO_BOUNDS]))[0]
        assert gauges[ACTIVATION_COLUMNS.index("activation.kurtosis")].isnan()
        assert gauges[ACTIVATION_COLUMNS.index("activation.rms")] == 1

    def test_known_distributions(self, generator):
        normal = torch.randn(1, 2**16, generator=generator)
        heavy = normal.clone()
        heavy[:, ::1000] *= 50
        both = activation_gauges(torch.cat([normal, heavy]), torch.tensor([NO_BOUNDS] * 2))
        kurtosis = both[:, ACTIVATION_COLUMNS.index("activation.kurtosis")]
        assert kurtosis[0].item() == pytest.approx(3, abs=0.1)
        assert kurtosis[1] > 100

    def test_large_values_do_not_overflow_in_the_kurtosis(self):
        x = torch.tensor([[1e15, -1e15, 5e14, 0.0]])
        gauges = activation_gauges(x, torch.tensor([NO_BOUNDS]))
        assert gauges[0].tolist() == pytest.approx(reference(x[0]), rel=1e-4, nan_ok=True)


class TestDrift:
    def test_a_planted_shift_is_measured_in_units_of_the_reference(self):
        drift = Drift(2, torch.device("cpu"))
        mean, rms = torch.tensor([0.5, 0.0]), torch.tensor([2.0, 1.0])
        for record in range(20):
            away = drift.measure(mean, rms)
            if record < 5:
                assert away.isnan().all()
            else:
                torch.testing.assert_close(away, torch.zeros(2, 2))
        away = drift.measure(mean + torch.tensor([4.0, 0.0]), rms * torch.tensor([1.0, 8.0]))
        torch.testing.assert_close(away, torch.tensor([[2.0, 0.0], [0.0, 3.0]]))

    def test_the_reference_follows(self):
        drift = Drift(1, torch.device("cpu"))
        for _ in range(10):
            drift.measure(torch.zeros(1), torch.ones(1))
        first = drift.measure(torch.ones(1), torch.ones(1))[0, 0]
        for _ in range(100):
            last = drift.measure(torch.ones(1), torch.ones(1))[0, 0]
        assert first == 1
        assert last < 0.01

    @pytest.mark.parametrize(
        ("mean", "rms"), [(torch.nan, torch.nan), (torch.inf, 1.0), (0.0, 0.0)]
    )
    def test_what_is_not_a_number_leaves_it_alone(self, mean, rms):
        drift = Drift(1, torch.device("cpu"))
        for _ in range(6):
            drift.measure(torch.ones(1), torch.ones(1))
        before = drift.reference.clone()
        drift.measure(torch.tensor([mean]), torch.tensor([rms]))
        torch.testing.assert_close(drift.reference, before, rtol=0, atol=0)


class TestParameters:
    def test_equals_a_float64_computation(self, generator):
        sizes = [7, 64, 64, 30] * CHUNK
        grads, before, after, moments = (
            [torch.randn(n, generator=generator) for n in sizes] for _ in range(4)
        )
        for i, g in enumerate(grads):
            g[::4] = 0
            moments[i] = moments[i].square() + 0.1
            after[i] = before[i] + 1e-3 * after[i]
            after[i][::3] = before[i][::3]
        numel = torch.tensor([float(n) * 3 for n in sizes])  # of which a third is sampled
        gauges = parameter_gauges(
            *(padded(rows, 64) for rows in (grads, before, after, moments)), numel
        )
        for i, found in enumerate(gauges.tolist()):
            g, b, a, v = (rows[i].double() for rows in (grads, before, after, moments))
            expected = [
                (g == 0).double().mean(),
                0,
                b.square().mean().sqrt() * (3 * sizes[i]) ** 0.5,
                ((a - b).square().mean() / b.square().mean()).sqrt(),
                ((a == b) & (g != 0)).double().sum() / (g != 0).double().sum(),
                (g.square() / v).mean().sqrt(),
            ]
            assert found == pytest.approx([float(e) for e in expected], rel=1e-4)

    def test_planted_non_finite_gradients(self):
        grads = torch.ones(1, 8)
        grads[0, 0], grads[0, 1] = torch.nan, torch.inf
        gauges = parameter_gauges(
            grads, torch.ones(1, 8), torch.ones(1, 8), torch.ones(1, 8), torch.tensor([8.0])
        )
        found = dict(zip(PARAMETER_COLUMNS, gauges[0].tolist(), strict=True))
        assert found["gradient.nonfinite_fraction"] == 0.25
        assert found["update.ratio"] == 0
        assert found["adam.rms_ratio"] == 1

    def test_what_is_absent_is_not_a_number(self):
        none, one = torch.full((1, 8), ABSENT), torch.ones(1, 8)
        gauges = parameter_gauges(none, one, one, none, torch.tensor([8.0]))
        found = dict(zip(PARAMETER_COLUMNS, gauges[0].tolist(), strict=True))
        assert math.isnan(found["gradient.zero_fraction"])
        assert math.isnan(found["adam.rms_ratio"])
        assert found["weight.norm"] == pytest.approx(8**0.5)
