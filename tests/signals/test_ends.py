import math

import pytest
import torch
from torch import nn

from trimtab.signals._ends import Ends, batch_gauges, fingerprint, join_fingerprint
from trimtab.signals._taps import Taps, watched_modules

CPU = torch.device("cpu")


class Model(nn.Module):
    """Takes its batch in any place and form, and returns logits in any form."""

    def __init__(self, form=lambda logits: logits):
        super().__init__()
        self.inner, self.form = nn.Linear(4, 3), form

    def forward(self, batch, **more):
        x = batch["x"] if isinstance(batch, dict) else more.get("x", batch)
        return self.form(self.inner(x.float()))


def ends(model, tapped=True):
    modules = watched_modules(model, lambda _: True) if tapped else {}
    taps = Taps(model, modules, size=64, device=CPU)
    taps.arm(True)
    return taps, Ends(model, taps)


def numbers(found):
    values = {name: value.item() for name, value in found.items()}
    join_fingerprint(values)
    return values


def seen(model, *args, **kwargs):
    _, both = ends(model)
    model(*args, **kwargs)
    return numbers(both.gauges(CPU))


class TestBatch:
    def test_equals_a_float64_computation(self, generator):
        x = torch.randn(50, 4, generator=generator) * 3 + 7
        found, wide = seen(Model(), x), x.double()
        assert found["input.mean"] == pytest.approx(float(wide.mean()), rel=1e-6)
        assert found["input.std"] == pytest.approx(float(wide.std(correction=0)), rel=1e-5)
        assert found["input.max"] == pytest.approx(float(wide.abs().max()))
        assert found["input.nonfinite_fraction"] == 0

    def test_what_is_not_finite_is_counted_and_left_out(self):
        x = torch.tensor([1.0, math.nan, -3.0, math.inf])
        assert batch_gauges(x).tolist() == [-1, 2, 3, 0.5]
        gauges = batch_gauges(torch.full((3,), math.nan))
        assert gauges[:3].isnan().all()
        assert gauges[3] == 1

    def test_a_constant_batch_has_no_spread(self):
        assert batch_gauges(torch.full((100,), 0.1))[1] == pytest.approx(0, abs=1e-7)

    def test_no_square_overflows(self):
        assert batch_gauges(torch.tensor([1e30, -1e30])).tolist() == pytest.approx(
            [0, 1e30, 1e30, 0]
        )

    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
    def test_integers_have_a_fingerprint_alone(self, dtype):
        found = seen(Model(), torch.ones(2, 4, dtype=dtype))
        assert all(math.isnan(found[f"input.{n}"]) for n in ("mean", "std", "max"))
        assert found["input.nonfinite_fraction"] == 0
        assert found["input.fingerprint"] > 0

    def test_a_forward_pass_that_writes_into_its_input(self):
        class Normalises(nn.Module):
            def forward(self, x):
                return x.div_(100)

        assert seen(Normalises(), torch.full((2, 4), 100.0))["input.mean"] == 100

    def test_wherever_it_is(self):
        x = torch.full((2, 4), 2.0)
        for args, kwargs in [
            ((x,), {}),
            (({"mask": None, "x": x},), {}),
            ((None,), {"x": x}),
            ((), {"batch": x}),
            (([],), {"x": x}),
        ]:
            assert seen(Model(), *args, **kwargs)["input.mean"] == 2


class TestFingerprint:
    @pytest.mark.parametrize(
        "dtype",
        [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8],
    )
    def test_equal_for_equal_batches_only(self, dtype):
        def draw(seed):
            g = torch.Generator().manual_seed(seed)
            return torch.randint(256, (32, 4), generator=g).to(dtype)

        prints = [seen(Model(), draw(seed))["input.fingerprint"] for seed in (0, 1, 2, 0)]
        assert prints[0] == prints[3]
        assert len(set(prints)) == 3
        assert all(p == int(p) and 0 <= p < 2**48 for p in prints)

    def test_the_smallest_change_shows(self):
        x = torch.arange(1000, dtype=torch.float32)
        base = fingerprint(x, (1000,))
        for place in (0, 1, 500, 999):
            other = x.clone()
            other[place] = torch.nextafter(x[place], torch.tensor(1e9))
            assert not torch.equal(fingerprint(other, (1000,)), base)
        swapped = x.clone()
        swapped[[3, 4]] = x[[4, 3]]
        assert not torch.equal(fingerprint(swapped, (1000,)), base)
        assert not torch.equal(fingerprint(x, (500, 2)), base)

    def test_many_batches_do_not_collide_and_use_all_bits(self):
        halves = torch.stack([fingerprint(torch.tensor([i, 0, 1]), (3,)) for i in range(2000)])
        joined = halves[:, 0].double() + halves[:, 1].double() * 2**24
        assert len(joined.unique()) == 2000
        assert halves.mean(dim=0).tolist() == pytest.approx([2**23, 2**23], rel=0.1)

    def test_float32_carries_it_exactly(self):
        halves = fingerprint(torch.arange(7), (7,))
        assert halves.dtype == torch.float32
        assert halves.tolist() == [int(h) for h in halves.tolist()]
        assert (halves < 2**24).all()

    def test_a_record_without_one_stays_as_it_is(self):
        values = {"loss": 1.0}
        join_fingerprint(values)
        assert values == {"loss": 1.0}


class TestLogZ:
    @pytest.mark.parametrize(
        "form",
        [
            lambda logits: logits,
            lambda logits: {"loss": logits.mean(), "logits": logits},
            lambda logits: (logits.mean(), logits.mean(dim=1), logits),
        ],
    )
    def test_equals_a_float64_computation(self, form, generator):
        model, x = Model(form), torch.randn(20, 4, generator=generator)
        expected = model.inner(x).detach().double().logsumexp(dim=1).mean()
        assert seen(model, x)["output.log_z"] == pytest.approx(float(expected), rel=1e-6)

    def test_of_images_the_channels_count(self):
        model = nn.Conv2d(3, 5, 1)
        x = torch.ones(2, 3, 4, 4)
        expected = model(x).detach().double().logsumexp(dim=1).mean()
        assert seen(model, x)["output.log_z"] == pytest.approx(float(expected), rel=1e-6)

    @pytest.mark.parametrize("form", [lambda y: y.mean(), lambda y: y[:, :1], lambda y: y[:, 0]])
    def test_what_is_no_logits_has_none(self, form):
        assert math.isnan(seen(Model(form), torch.ones(2, 4))["output.log_z"])

    def test_also_where_the_model_has_no_tap(self):
        model = nn.Sequential(nn.Linear(4, 3))
        _, both = ends(model)
        expected = model(torch.ones(2, 4)).detach().double().logsumexp(dim=1).mean()
        assert numbers(both.gauges(CPU))["output.log_z"] == pytest.approx(float(expected), rel=1e-6)


class TestWhen:
    def test_only_armed_in_training_and_once(self):
        model = Model()
        taps, both = ends(model)
        x = torch.ones(2, 4)
        with torch.no_grad():
            model(x)
        model.eval()
        model(x)
        model.train()
        taps.arm(False)
        model(x)
        assert all(math.isnan(v) for v in numbers(both.gauges(CPU)).values())
        taps.arm(True)
        model(x)
        assert not any(math.isnan(v) for v in numbers(both.gauges(CPU)).values())
        assert all(math.isnan(v) for v in numbers(both.gauges(CPU)).values())

    def test_removing_leaves_nothing(self):
        model = Model()
        taps, both = ends(model, tapped=False)
        both.remove()
        taps.remove()
        assert not model._forward_hooks
        assert not model._forward_pre_hooks
        assert not model._forward_pre_hooks_with_kwargs

    def test_nobody_waits(self, no_host_sync):
        model = Model()
        _, both = ends(model)
        x = torch.ones(2, 4)
        with no_host_sync():
            model(x)
            both.gauges(CPU)
