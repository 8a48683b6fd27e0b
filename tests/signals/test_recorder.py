import numpy as np
import pytest
import torch
from torch import nn

from trimtab.optim import grad_norms
from trimtab.signals import Recorder, Watch
from trimtab.signals._parameters import NORM_WINDOW
from trimtab.signals._recorder import MAX_SAMPLED, MIN_SAMPLE

EVERYTHING = Watch(parameters=1, modules=1, histograms=1)


class Run:
    """A recorder around the steps of a small network, with nothing else in between."""

    def __init__(self, model, watch=EVERYTHING, optimizer=None):
        self.model = model
        self.optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
        params = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.recorder = Recorder(model, params, watch=watch)
        self.records = []
        self.recorder.sinks.append(self.records.append)

    def step(self, x, factor=1.0, skipped=0.0):
        self.optimizer.zero_grad()
        loss = self.model(x).square().mean()
        (loss * factor).backward()
        params = [p for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        norms = grad_norms(params)
        self.recorder.before_update()
        if np.isfinite(factor):
            self.optimizer.step()
        self.recorder.after_update(
            self.optimizer,
            params=params,
            norms=norms,
            divisor=1.0,
            values={
                "loss": loss.detach(),
                "gradient.clip_coefficient": 1.0,
                "step.skipped": skipped,
            },
        )
        return self.records[-1] if self.records else None


def build(seed=0):
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh())
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.5
    return model


def data(step=0):
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(step))


def due(records, table):
    return [r.step for r in records if table in r.tables]


class TestValues:
    def test_modules_are_exact_where_the_sample_is_everything(self):
        run = Run(build())
        x, outputs = data(), {}
        h = x
        for i, layer in enumerate(run.model):
            h = layer(h)
            outputs[str(i)] = h.detach().double()
        sites, columns = run.step(x).tables["modules"]
        assert list(sites) == ["0", "1", "2", "3"]
        for i, site in enumerate(sites):
            y = outputs[site]
            expected = {
                "activation.mean": y.mean(),
                "activation.rms": y.square().mean().sqrt(),
                "activation.max": y.abs().max(),
                "activation.zero_fraction": (y == 0).double().mean(),
                "activation.nonfinite_fraction": 0.0,
                "activation.kurtosis": (y - y.mean()).pow(4).mean() / y.var(correction=0) ** 2,
            }
            for name, value in expected.items():
                assert columns[name][i] == pytest.approx(float(value), rel=1e-4), name
        saturated = (outputs["3"].abs() >= 0.98).double().mean()
        assert columns["activation.saturation"][3] == pytest.approx(saturated.item())
        assert np.isnan(columns["activation.saturation"][:3]).all()

    def test_parameters_are_exact_where_the_sample_is_everything(self):
        run = Run(build())
        before = [p.detach().double().clone() for p in run.model.parameters()]
        record = run.step(data())
        sites, columns = record.tables["parameters"]
        assert list(sites) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        for i, (p, b) in enumerate(zip(run.model.parameters(), before, strict=True)):
            change = p.detach().double() - b
            assert columns["gradient.norm"][i] == pytest.approx(p.grad.norm().item(), rel=1e-6)
            assert columns["weight.norm"][i] == pytest.approx(b.norm().item(), rel=1e-6)
            ratio = (change.norm() / b.norm()).item()
            assert columns["update.ratio"][i] == pytest.approx(ratio, rel=1e-4)
        joint = torch.cat([b.flatten() for b in before]).norm().item()
        assert record.values["weight.norm"] == pytest.approx(joint, rel=1e-6)
        norm = torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm().item()
        assert record.values["gradient.norm"] == pytest.approx(norm, rel=1e-6)

    def test_histograms_hold_every_sampled_element(self):
        run = Run(build())
        sites, columns = run.step(data()).tables["histograms"]
        counts = dict(zip(sites, columns["count"].sum(axis=1), strict=True))
        assert counts["activation/0"] == 16 * 8
        assert counts["gradient/0.weight"] == counts["weight/0.weight"] == 48
        assert len(sites) == 4 + 2 * 4

    def test_a_planted_shift_drifts(self):
        run = Run(build())
        run.optimizer.param_groups[0]["lr"] = 0.0
        for step in range(20):
            calm = run.step(data(step))
        with torch.no_grad():
            run.model[0].bias += 10
        shifted = run.step(data(20))
        name = "activation.drift_mean"
        assert abs(calm.tables["modules"][1][name][0]) < 0.5
        assert shifted.tables["modules"][1][name][0] > 3
        assert shifted.tables["modules"][1]["activation.drift_scale"][0] > 1

    def test_large_outputs_are_within_the_error_of_the_sample(self):
        g = torch.Generator().manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 300), nn.ReLU())
        for p in model.parameters():
            p.data = torch.randn(p.shape, generator=g)
        run = Run(model)
        x = torch.randn(500, 6, generator=g)
        y = model(x).detach()
        columns = run.step(x).tables["modules"][1]
        rms = y.square().mean().sqrt().item()
        assert columns["activation.rms"][1] == pytest.approx(rms, rel=0.15)
        zeros = (y == 0).float().mean().item()
        assert columns["activation.zero_fraction"][1] == pytest.approx(zeros, abs=0.07)


class TestFurtherValues:
    def test_rows_and_ends_are_exact_where_the_sample_is_everything(self):
        run = Run(build())
        x = data()
        with torch.no_grad():
            h = run.model[0](x).double()
            y = run.model(x).double()
        record = run.step(x)
        columns = record.tables["modules"][1]
        centred = h - h.mean(dim=0)
        variation = (centred.square().mean() / h.square().mean()).sqrt()
        assert columns["activation.variation"][0] == pytest.approx(variation.item(), rel=1e-5)
        spread = torch.linalg.svdvals(centred).square()
        rank = spread.sum().square() / spread.square().sum()
        assert columns["activation.rank"][0] == pytest.approx(rank.item(), rel=1e-4)
        assert record.values["input.mean"] == pytest.approx(x.mean().item(), rel=1e-4)
        log_z = y.logsumexp(dim=1).mean().item()
        assert record.values["output.log_z"] == pytest.approx(log_z, rel=1e-5)

    @pytest.mark.parametrize("at_once", [True, False])
    def test_a_batch_that_comes_again_has_the_same_fingerprint(self, at_once):
        run = Run(build())
        run.recorder.at_once = at_once
        for batch in (0, 1, 0):
            run.step(data(batch))
        run.recorder.close()
        first, second, third = (r.values["input.fingerprint"] for r in run.records)
        assert first == third != second

    def test_a_step_that_was_skipped_left_nothing_unchanged(self):
        run = Run(build())
        assert (run.step(data()).tables["parameters"][1]["update.unchanged_fraction"] == 0).all()
        run.optimizer.step = lambda: None
        columns = run.step(data(), skipped=1.0).tables["parameters"][1]
        assert np.isnan(columns["update.unchanged_fraction"]).all()
        columns = run.step(data(), skipped=torch.zeros(())).tables["parameters"][1]
        assert (columns["update.unchanged_fraction"] == 1).all()

    def test_the_order_of_the_modules(self):
        run = Run(build(), Watch(modules=3))
        assert run.recorder.order == []
        run.step(data())
        assert run.recorder.order == ["0", "1", "2", "3"]

    def test_between_records_there_are_no_columns(self):
        run = Run(build(), Watch(parameters=3, modules=3))
        run.step(data())
        names = run.step(data()).values
        assert not [n for n in names if n.startswith(("input", "output", "replicas"))]


class TestSource:
    def locate(self, run, x, loss=None):
        found = []
        run.recorder.on_nonfinite.append(lambda step, source: found.append((step, source)))
        run.model(x)
        run.recorder.locate_nonfinite(loss=loss, scaled=False)
        run.recorder.on_nonfinite.clear()
        return found

    def test_listeners_get_step_and_place(self):
        run = Run(build())
        run.step(data())
        x = data()
        x[3] = np.nan
        [(step, source)] = self.locate(run, x)
        assert (step, source.kind, source.row) == (2, "input", 3)

    def test_the_rerun_is_not_measured(self):
        run = Run(build())
        samples = run.recorder.taps.samples
        run.model(data())
        before = samples.clone()
        run.recorder.locate_nonfinite(loss=None, scaled=False)
        assert torch.equal(samples, before)
        assert run.recorder.taps.armed

    def test_after_the_step_nothing_is_kept(self):
        run = Run(build())
        run.step(data())
        run.recorder.on_nonfinite.append(pytest.fail)
        run.recorder.locate_nonfinite(loss=np.nan, scaled=False)


class TestCadence:
    def test_each_family_has_its_own(self):
        run = Run(build(), Watch(parameters=2, modules=3, histograms=6))
        for step in range(13):
            run.step(data(step))
        assert due(run.records, "parameters") == [1, 2, 4, 6, 8, 10, 12]
        assert due(run.records, "modules") == [1, 3, 6, 9, 12]
        assert due(run.records, "histograms") == [1, 6, 12]
        assert [r.step for r in run.records] == list(range(1, 14))

    @pytest.mark.parametrize("family", ["parameters", "modules", "histograms"])
    def test_zero_leaves_a_family_out(self, family):
        run = Run(build(), Watch(**{"parameters": 1, "modules": 1, "histograms": 1, family: 0}))
        for step in range(3):
            run.step(data(step))
        assert not due(run.records, family)
        if family != "histograms":
            assert not run.recorder.sites[family]

    def test_off_is_off(self):
        run = Run(build(), Watch(parameters=0, modules=0, histograms=0, burst=0))
        record = run.step(data(), factor=torch.nan)
        assert not record.tables
        assert not any(m._forward_hooks for m in run.model.modules())
        run.recorder.close()
        assert not run.model._forward_pre_hooks

    @pytest.mark.parametrize("cause", ["spike", "nan"])
    @pytest.mark.parametrize("at_once", [True, False])
    def test_a_burst_after_an_unusual_norm(self, cause, at_once):
        watch = Watch(parameters=1000, modules=1000, histograms=0, burst=5)
        run = Run(build(), watch)
        run.recorder.at_once = at_once
        run.optimizer.param_groups[0]["lr"] = 0.0
        for _ in range(NORM_WINDOW + 3):
            run.step(data())
        run.step(data(), factor=5.0 if cause == "spike" else torch.nan)
        for _ in range(10):
            run.step(data())
        run.recorder.sync()
        last = NORM_WINDOW + 4 + (0 if at_once else 1)  # an accelerator knows a step later
        expected = [1, *range(last + 1, last + 6)]
        assert due(run.records, "parameters") == expected
        assert due(run.records, "modules") == expected

    def test_a_burst_does_not_keep_histograms_away(self):
        run = Run(build(), Watch(parameters=1, modules=1, histograms=4, burst=9))
        for step in range(8):
            run.step(data(step), factor=torch.nan if step == 1 else 1.0)
        assert due(run.records, "histograms") == [1, 4, 8]

    def test_include_and_exclude(self):
        run = Run(build(), Watch(include=r"^0|^2", exclude="bias"))
        assert run.recorder.sites == {"parameters": ["0.weight", "2.weight"], "modules": ["0", "2"]}


class TestSize:
    def test_memory_is_bounded_in_a_very_deep_model(self):
        model = nn.Sequential(*[nn.Linear(40, 40) for _ in range(2000)])
        run = Run(model)
        held = [run.recorder.taps.samples, *run.recorder._parts[0].probe._matrices.values()]
        assert all(m.numel() <= MAX_SAMPLED for m in held)
        assert len(run.recorder.sites["parameters"]) == 4000
        assert held[0].shape == (2000, MAX_SAMPLED // 2000)

    def test_each_of_very_many_still_gets_a_sample(self):
        model = nn.ParameterList([torch.zeros(2) for _ in range(9000)])
        recorder = Recorder(model, list(model.parameters()), watch=EVERYTHING)
        assert recorder._parts[0].probe.size == MIN_SAMPLE


def test_a_later_delivery_waits_for_nothing(no_host_sync):
    run = Run(build(), optimizer=None)
    run.recorder.at_once = False
    for step in range(3):
        with no_host_sync():
            run.step(data(step))
        assert len(run.records) == step
    run.recorder.close()
    assert len(run.records) == 3


def test_state_of_another_model_keeps_what_fits():
    run, other = Run(build()), Run(nn.Sequential(nn.Linear(6, 2)))
    for step in range(3):
        run.step(data(step))
    other.recorder.load_state_dict(run.recorder.state_dict())
    assert other.recorder.step == 3
    other.step(data())


def test_parameters_in_the_order_of_the_model():
    model = build()
    backwards = list(reversed(list(model.parameters())))
    recorder = Recorder(model, backwards, watch=EVERYTHING)
    assert recorder.sites["parameters"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_parameters_that_the_model_does_not_have_are_numbered():
    model, extra = build(), nn.Parameter(torch.zeros(2))
    recorder = Recorder(model, [*model.parameters(), extra], watch=EVERYTHING)
    assert recorder.sites["parameters"][-1] == "parameter.4"
    recorder.add_params([extra, nn.Parameter(torch.zeros(1))])
    assert recorder.sites["parameters"][-2:] == ["parameter.4", "parameter.5"]


def test_moving_keeps_the_references():
    run = Run(build())
    for step in range(7):
        run.step(data(step))
    reference = run.recorder.drift.reference.clone()
    run.recorder.move_to(torch.device("cpu"))
    torch.testing.assert_close(run.recorder.drift.reference, reference)
    record = run.step(data(7))
    assert np.isfinite(record.tables["modules"][1]["activation.rms"]).all()
    assert np.isfinite(record.tables["parameters"][1]["update.ratio"]).all()
