"""Each pitfall is impossible, refused, or warned about; the nearest healthy setting is silent."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

from trimtab import ConfigError, StabilityWarning, Stepper
from trimtab.engine import _pitfalls, _ranks
from trimtab.init import he_
from trimtab.nn import StableNet
from trimtab.optim import param_groups, warmup_constant


def warmed_up(model, optimizer, **options):
    return Stepper(model, optimizer, schedule=warmup_constant(optimizer, 10), **options)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 2))


def healthy(model, lr=1e-3):
    return torch.optim.AdamW(param_groups(model, 0.1), lr=lr)


def test_a_healthy_setting_is_silent(model):
    warmed_up(model, healthy(model))  # warnings are errors in these tests


class TestDecayOnNorms:
    def test_warns(self, model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        with pytest.warns(StabilityWarning, match=r"decay-on-norms: .* 4 biases or norm weights"):
            warmed_up(model, optimizer)

    def test_silent_without_decay(self, model):
        warmed_up(model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0))


class TestNoWarmup:
    def test_warns(self, model):
        with pytest.warns(StabilityWarning, match="no-warmup: AdamW starts at its full"):
            Stepper(model, healthy(model))

    def test_warns_about_a_schedule_that_starts_at_the_top(self, model):
        optimizer = healthy(model)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        with pytest.warns(StabilityWarning, match="no-warmup"):
            Stepper(model, optimizer, schedule=schedule)

    def test_silent_when_meant(self, model):
        Stepper(model, healthy(model), schedule="constant")

    def test_silent_for_sgd(self, model):
        Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1))

    def test_silent_when_resumed_after_the_warmup(self, model):
        optimizer = healthy(model)
        schedule = warmup_constant(optimizer, 2)
        for _ in range(3):
            optimizer.step()
            schedule.step()
        Stepper(model, optimizer, schedule=schedule)


class TestLearningRateTooHigh:
    def test_warns(self, model):
        with pytest.warns(StabilityWarning, match=r"learning-rate-too-high: .* group 0, 1,"):
            warmed_up(model, healthy(model, lr=1.0))

    def test_silent_at_usual_rates(self, model):
        for lr in (1e-5, 1e-3, 1e-2):
            warmed_up(model, healthy(model, lr=lr))

    def test_silent_for_zero_initialised_layers(self):
        model = nn.Linear(4, 4)
        nn.init.zeros_(model.weight)
        warmed_up(model, healthy(model, lr=0.01))


class TestInitialisation:
    def deep(self, std):
        layers = [m for _ in range(20) for m in (nn.Linear(64, 64), nn.ReLU())]
        model = nn.Sequential(*layers, nn.Linear(64, 1))
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=std, generator=torch.Generator().manual_seed(0))
                nn.init.zeros_(layer.bias)
        return model

    def first_step(self, model):
        stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=1e-9))
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
        stepper.backward(lambda: (model(x) - 1).square().mean())
        stepper.step()

    @pytest.mark.parametrize(
        ("std", "found"),
        [(0.03, "vanish"), (0.05, "vanish"), (0.5, "explode"), (0.8, "explode")],
    )
    def test_warns(self, std, found):
        with pytest.warns(StabilityWarning, match=f"init-mismatch.*{found} on their way"):
            self.first_step(self.deep(std))

    def test_warns_about_layers_that_get_no_signal(self):
        layers = [m for _ in range(8) for m in (nn.Linear(64, 64, bias=False), nn.LayerNorm(64))]
        model = nn.Sequential(*layers, nn.Linear(64, 1))
        nn.init.normal_(layers[0].weight, std=1e12)

        with pytest.warns(StabilityWarning, match=r"init-mismatch.*some layers get no signal"):
            self.first_step(model)

    def test_silent_for_the_right_one(self):
        self.first_step(he_(self.deep(1.0), generator=torch.Generator().manual_seed(0)))

    @pytest.mark.parametrize(
        "model",
        [
            nn.Sequential(
                nn.Unflatten(1, (1, 8, 8)),
                nn.Conv2d(1, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(144, 1),
            ),
            nn.Sequential(
                nn.Unflatten(1, (8, 8)),
                nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
                nn.Flatten(),
                nn.Linear(64, 1),
            ),
            StableNet(64, 1, width=16, depth=100, residual="layer_scale"),
            StableNet(64, 1, width=16, depth=20, residual="rezero"),
        ],
    )
    def test_silent_for_gradients_that_are_zero_in_health(self, model):
        """Biases before a norm, keys' biases, branches that begin at zero."""
        self.first_step(model)


class TestThresholdTooAggressive:
    def run(self, clip):
        model = nn.Linear(4, 1)
        stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=1e-9), clip=clip)
        x = torch.ones(8, 4)
        for _ in range(_pitfalls.CLIP_WINDOW):
            stepper.backward(lambda: (model(x) - 10).square().mean())
            stepper.step()

    def test_warns_once_with_a_better_value(self):
        with pytest.warns(StabilityWarning, match="threshold-too-aggressive: 100%") as seen:
            self.run(clip=0.1)
        assert len(seen) == 1
        assert "90th percentile" in str(seen[0].message)

    def test_silent_when_it_seldom_clips(self):
        self.run(clip=1e3)


class TestFloat16WithoutScaling:
    def test_half_parameters_are_refused(self, model):
        model.half()
        with pytest.raises(ConfigError, match=r'0\.weight is float16.*precision="fp16"'):
            Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1))

    def test_the_stepper_scales_by_itself(self, model):
        stepper = warmed_up(model, healthy(model), precision="fp16")
        assert float(stepper.scaler.scale) == 65536


class TestBatchNorm:
    def test_warns_on_several_ranks(self, monkeypatch):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        monkeypatch.setattr(_ranks, "num_ranks", lambda _: 2)
        with pytest.warns(StabilityWarning, match="unsynchronised-batch-norm: 1 "):
            warmed_up(model, healthy(model, lr=1e-3))

    def test_silent_when_synchronised_or_alone(self, monkeypatch):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        warmed_up(model, healthy(model))
        monkeypatch.setattr(_ranks, "num_ranks", lambda _: 2)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        warmed_up(model, healthy(model))


class TestRefused:
    def test_optimizer_of_another_model(self, model):
        with pytest.raises(ConfigError, match="holds no parameter of this model"):
            Stepper(nn.Linear(2, 2), torch.optim.SGD(model.parameters(), lr=0.1))

    @pytest.mark.parametrize("lr", [float("nan"), float("inf")])
    def test_learning_rate(self, model, lr):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.param_groups[0]["lr"] = lr
        with pytest.raises(ConfigError, match="learning rate of param group 0"):
            Stepper(model, optimizer)

    def test_lbfgs(self, model):
        with pytest.raises(ConfigError, match=r"optimizer.step\(closure\) directly"):
            Stepper(model, torch.optim.LBFGS(model.parameters()))


def test_a_warning_can_be_made_an_error(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", StabilityWarning)
        with pytest.raises(StabilityWarning):
            Stepper(model, healthy(model))


def test_no_process_group_is_needed():
    assert not dist.is_initialized()
    assert _ranks.num_ranks(nn.Linear(1, 1)) == 1
