import contextlib

import numpy as np
import pytest
import torch
from tests.engine.conftest import (
    CLIPPERS,
    OPTIMIZERS,
    TokenMixer,
    assert_same,
    fill,
    row,
    snapshot,
    step_once,
    token_loss,
    train_tokens,
    values,
    watched,
)
from torch import nn

from trimtab import ConfigError, DivergedError, StateError, attach
from trimtab.checkpoint import load_latest, save_checkpoint


class TestDetach:
    def test_twice_is_once(self):
        model = nn.Linear(3, 1)
        _, trim = watched(model)
        trim.detach()
        trim.detach()

    def test_with_detaches_on_an_exception(self):
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = snapshot(model, optimizer)
        with contextlib.suppress(ZeroDivisionError), attach(model, optimizer, out=None):
            step_once(model, optimizer, torch.ones(2, 3))
            raise ZeroDivisionError
        assert snapshot(model, optimizer) == before

    def test_a_sink_that_raises_does_not_keep_hooks(self):
        """On an accelerator the last step may turn out to be one too many when it is read."""
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = snapshot(model, optimizer)
        _, trim = watched(model, optimizer, max_skips=1)
        trim.recorder.at_once = False
        for _ in range(2):
            step_once(model, optimizer, torch.full((2, 3), torch.nan))
        with pytest.raises(DivergedError):
            trim.detach()
        assert snapshot(model, optimizer) == before

    def test_attaching_again_after_detaching(self):
        model = nn.Linear(3, 1)
        optimizer, trim = watched(model)
        trim.detach()
        _, again = watched(model, optimizer)
        step_once(model, optimizer, torch.ones(2, 3))
        assert (trim.steps, again.steps) == (0, 1)
        again.detach()

    def test_attaching_twice_is_refused(self):
        model = nn.Linear(3, 1)
        optimizer, trim = watched(model)
        before = snapshot(model, optimizer)
        with pytest.raises(StateError, match=r"attached already.*Call detach\(\)"):
            attach(model, optimizer, out=None)
        assert snapshot(model, optimizer) == before
        trim.detach()

    def test_two_optimizers_may_be_attached_one_by_one(self):
        model = nn.Linear(3, 1)
        first, second = (torch.optim.SGD([p], lr=0.1) for p in model.parameters())
        (_, one), (_, two) = watched(model, first), watched(model, second)
        model(torch.ones(2, 3)).mean().backward()
        first.step()
        second.step()
        assert row(one, "parameters", "weight", "gradient.norm") > 0
        assert row(two, "parameters", "bias", "gradient.norm") == pytest.approx(1)
        one.detach()
        two.detach()


class TestState:
    @pytest.mark.parametrize("clip", ["none", "norm", "zclip"])
    @pytest.mark.parametrize("kind", ["adamw-fused", "sgd"])
    def test_a_resumed_run_goes_on_with_its_baselines(self, clip, kind, tmp_path):
        def build():
            model = fill(TokenMixer())
            optimizer, trim = watched(
                model, OPTIMIZERS[kind](model.parameters()), clip=CLIPPERS[clip](model)
            )
            model.eval()  # no dropout; the taps are told otherwise below
            trim.recorder.taps.model = nn.Module()
            return model, optimizer, trim

        model, optimizer, straight = build()
        train_tokens(model, optimizer, 12)
        second, theirs, half = build()
        train_tokens(second, theirs, 6)
        save_checkpoint(
            tmp_path,
            6,
            model=second.state_dict(),
            state={"optimizer": theirs.state_dict(), "trim": half.state_dict()},
        )
        half.detach()

        third, ours, resumed = build()
        _, weights, state = load_latest(tmp_path)
        third.load_state_dict(weights)
        ours.load_state_dict(state["optimizer"])
        resumed.load_state_dict(state["trim"])
        assert resumed.steps == 6
        for step in range(6, 12):
            ours.zero_grad()
            token_loss(third, step).backward()
            ours.step()

        assert resumed.steps == 12
        assert_same(values(third), values(model))
        for a, b in zip(list(straight.history)[7:], list(resumed.history)[1:], strict=True):
            assert a.step == b.step
            for table in ("parameters", "modules"):
                for name, column in a.tables[table][1].items():
                    np.testing.assert_array_equal(column, b.tables[table][1][name], err_msg=name)
        a, b = straight.state_dict()["recorder"], resumed.state_dict()["recorder"]
        assert_same(a["drift"], b["drift"])
        assert_same(a["units"]["masks"], b["units"]["masks"])
        assert a["units"]["watched"] == b["units"]["watched"]
        assert a["parts"][0]["recent_norms"] == b["parts"][0]["recent_norms"]
        straight.detach(), resumed.detach()

    def test_a_clipper_that_is_gone(self):
        model = nn.Linear(3, 1)
        optimizer, trim = watched(model, clip=1.0)
        state = trim.state_dict()
        trim.detach()
        _, other = watched(model, optimizer, clip=None)
        with pytest.raises(ConfigError, match="saved run has a clipper, this one has none"):
            other.load_state_dict(state)
        other.detach()


class TestFolder:
    def test_what_is_measured_can_be_read(self, tmp_path):
        model = fill(TokenMixer())
        optimizer = torch.optim.AdamW(model.parameters())
        with attach(model, optimizer, out=tmp_path / "run", watch=2, config={"lr": 1}) as trim:
            train_tokens(model, optimizer, 4)
            run = trim.run()
            assert trim.folder == tmp_path / "run"
            assert len(run.table("steps")) == 4
        assert sorted(run.table("parameters")["step"].unique()) == [1, 2, 4]
        assert run.sites("modules") == list(trim.recorder.sites["modules"])

    def test_auto_makes_a_folder_under_runs(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with attach(model, optimizer) as trim:
            step_once(model, optimizer, torch.ones(2, 3))
        assert trim.folder.parent.name == "runs"
        assert trim.folder.name.startswith("linear-")

    def test_skipped_steps_are_events(self, tmp_path):
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with attach(model, optimizer, out=tmp_path) as trim:
            step_once(model, optimizer, torch.full((2, 3), torch.nan))
            events = trim.run().events()
        kinds = [e["kind"] for e in events if e["kind"] != "finding"]
        assert kinds == ["nonfinite", "skipped"]

    def test_in_memory_there_is_nothing_to_read(self):
        model = nn.Linear(3, 1)
        _, trim = watched(model)
        with pytest.raises(StateError, match="Pass out="):
            trim.run()
        trim.detach()

    def test_a_config_that_json_cannot_hold_attaches_nothing(self, tmp_path):
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = snapshot(model, optimizer)
        with contextlib.suppress(TypeError, ValueError):
            attach(model, optimizer, out=tmp_path, config={"x": object()}).detach()
        assert snapshot(model, optimizer) == before

    def test_loggers_get_every_step(self):
        seen = []
        model = nn.Linear(3, 1)
        optimizer, trim = watched(
            model, loggers=[lambda step, scalars: seen.append((step, scalars))]
        )
        step_once(model, optimizer, torch.ones(2, 3))
        trim.detach()
        assert [step for step, _ in seen] == [1]
        assert seen[0][1]["update.ratio/weight"] > 0


def test_dead_units():
    model = fill(nn.Sequential(nn.Linear(4, 8), nn.ReLU()))
    with torch.no_grad():
        model[0].weight[3] = 0
        model[0].bias[3] = -1
    optimizer, trim = watched(model, torch.optim.SGD(model.parameters(), lr=0.0), watch=1)
    g = torch.Generator().manual_seed(0)
    for _ in range(12):
        step_once(model, optimizer, torch.randn(64, 4, generator=g))
    assert row(trim, "modules", "1", "activation.dead_fraction") == pytest.approx(1 / 8)
    assert trim.dead_units("1").nonzero().flatten().tolist() == [3]
    assert trim.dead_units("0") is None
    with pytest.raises(ConfigError, match=r"No module 'nope' is watched\. Known are: 0, 1"):
        trim.dead_units("nope")
    trim.detach()
