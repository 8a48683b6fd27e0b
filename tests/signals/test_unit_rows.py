import math

import pytest
import torch

from trimtab.signals._unit_rows import (
    BLOCK,
    MAX_KEPT,
    MAX_UNITS,
    MIN_UNITS,
    UNIT_ROWS,
    row_gauges,
    row_sample,
    unit_rows,
    units_kept,
)

CPU = torch.device("cpu")


def reference(rows):
    """Variation and participation ratio in float64, by the eigenvalues of the covariance."""
    x = rows.double()
    centred = x - x.mean(dim=0)
    variation = (centred.square().mean(dim=0).mean() / x.square().mean()).sqrt()
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred)
    return [float(variation), float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())]


class TestUnitRows:
    @pytest.mark.parametrize(
        ("shape", "units"),
        [
            ((3, 5), 5),
            ((1000, 5), 5),
            ((50, 40, 5), 5),
            ((6, 7, 30, 30), 7),
            ((2, 7, 9, 9, 9), 7),
            ((5,), 5),
            ((), 1),
        ],
    )
    def test_shape_and_bounded_cost(self, shape, units):
        rows = unit_rows(torch.ones(shape))
        assert rows.shape[1] == units
        assert 1 <= rows.shape[0] <= 2 * UNIT_ROWS

    def test_channels_of_an_image_are_its_units(self):
        image = torch.zeros(2, 3, 8, 8)
        image[:, 1] = 1
        assert (unit_rows(image) != 0).any(dim=0).tolist() == [False, True, False]


class TestRowSample:
    @pytest.mark.parametrize("units", [128, 129, 256, 513, 768, 1024, 50257])
    def test_wide_outputs_are_thinned_over_their_whole_width(self, units):
        place = torch.arange(units, dtype=torch.float32).expand(3, units)
        kept = row_sample(place)[0].tolist()
        assert MAX_UNITS / 2 < len(kept) <= MAX_UNITS
        block = BLOCK if units % BLOCK == 0 else 1
        starts = [int(place) // block for place in kept[::block]]
        stride = starts[1] - starts[0]
        assert starts == list(range(0, units // block, stride))
        assert math.gcd(stride, units // block) == 1
        assert kept == [s * block + i for s in starts for i in range(block)]

    def test_channels_of_an_image_are_thinned(self, generator):
        image = torch.randn(4, 256, 8, 8, generator=generator)
        rows = row_sample(image)
        assert rows.shape == (UNIT_ROWS, 96)
        assert torch.equal(rows[:, 20], unit_rows(image)[:, 3 * BLOCK + 4])

    def test_it_is_a_copy(self):
        output = torch.zeros(4, 3)
        rows = row_sample(output)
        output += 1
        assert not rows.any()

    def test_never_more_rows_than_promised(self):
        assert row_sample(torch.zeros(9, 3, 9, 9, 9, 9)).shape[0] <= UNIT_ROWS

    @pytest.mark.parametrize("num_modules", [0, 1, 100, 1000, 100_000])
    def test_memory_is_bounded(self, num_modules):
        units = units_kept(num_modules)
        assert MIN_UNITS <= units <= MAX_UNITS
        assert units == MIN_UNITS or units * UNIT_ROWS * num_modules <= MAX_KEPT


class TestGauges:
    def test_equals_a_float64_computation(self, generator):
        rows = [
            torch.randn(n, u, generator=generator) * s + m
            for n, u, s, m in [
                (64, 32, 1, 0),
                (64, 32, 1e-3, 1),
                (20, 100, 1e3, -5),
                (64, 3, 1, 2),
                (2, 2, 1, 0),
                (64, 32, 5, 1),
            ]
        ]
        for row, found in zip(rows, row_gauges(rows, CPU).tolist(), strict=True):
            assert found == pytest.approx(reference(row), rel=1e-3)

    @pytest.mark.parametrize("directions", [1, 3])
    def test_the_rank_is_that_of_what_varies(self, directions, generator):
        """A large mean that all rows share is no direction."""
        basis = torch.linalg.qr(torch.randn(40, directions, generator=generator))[0]
        signs = torch.tensor([[1.0 - 2 * ((r >> d) & 1) for d in range(3)] for r in range(64)])
        rows = signs[:, :directions] @ basis.T + 100 * torch.ones(40)
        variation, rank = row_gauges([rows], CPU)[0].tolist()
        assert rank == pytest.approx(directions, rel=1e-2)
        assert 0 < variation < 0.01

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_every_dtype(self, dtype, generator):
        rows = torch.randn(16, 8, generator=generator).to(dtype)
        assert row_gauges([rows], CPU)[0].tolist() == pytest.approx(reference(rows), rel=1e-3)

    def test_the_same_for_every_input(self):
        rows = torch.tensor([0.1, -3.0, 7.0]).expand(50, 3)
        variation, rank = row_gauges([rows], CPU)[0].tolist()
        assert variation < 1e-6
        assert math.isnan(rank)

    def test_one_unit_varies_but_has_no_rank(self):
        variation, rank = row_gauges([torch.tensor([[1.0], [-1.0]])], CPU)[0].tolist()
        assert variation == 1
        assert math.isnan(rank)

    @pytest.mark.parametrize(
        "rows",
        [None, torch.ones(1, 5), torch.zeros(4, 5), torch.tensor([[1.0, math.nan], [2.0, 3.0]])],
    )
    def test_what_cannot_be_told(self, rows):
        assert row_gauges([rows], CPU).isnan().all()

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_no_square_overflows(self, scale, generator):
        rows = torch.randn(30, 8, generator=generator)
        torch.testing.assert_close(row_gauges([rows * scale], CPU), row_gauges([rows], CPU))

    def test_each_keeps_its_place_and_nobody_waits(self, generator, no_host_sync):
        wide, narrow = (torch.randn(64, u, generator=generator) for u in (9, 4))
        with no_host_sync():
            gauges = row_gauges([wide, None, narrow, wide], CPU)
        torch.testing.assert_close(gauges[0], gauges[3])
        assert gauges[1].isnan().all()
        assert gauges[2].tolist() == pytest.approx(reference(narrow), rel=1e-3)
