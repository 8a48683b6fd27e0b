"""Settings and memory of the default policy."""

import math

import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.guard._spike_rule import SpikeRule, empty_memory, is_early


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss_z": 0},
            "loss_z must be finite and positive, got 0. To judge only whether values are finite, "
            "use the policy 'nonfinite'.",
        ),
        (
            {"norm_z": math.inf},
            "norm_z must be finite and positive, got inf. To judge only whether values are "
            "finite, use the policy 'nonfinite'.",
        ),
        ({"min_history": 1}, "min_history must be a whole number of at least 2, got 1."),
        ({"min_history": 8.5}, "min_history must be a whole number of at least 2, got 8.5."),
        ({"patience": True}, "patience must be a whole number of at least 2, got True."),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        SpikeRule(**settings)

    assert str(error.value) == message


def test_least_heights_are_thresholds_of_a_few_percent():
    rule = SpikeRule(loss_z=6, norm_z=5)

    assert rule.z == (6.0, 5.0)
    assert rule.least == pytest.approx((0.12, 0.25))


def test_memory_has_room_for_the_flagged_values():
    memory = empty_memory(SpikeRule(patience=7))

    assert memory["flagged"].shape == (2, 8)
    assert memory["flagged"].isnan().all()
    assert sum(v.numel() for v in memory.values() if isinstance(v, torch.Tensor)) < 40


@pytest.mark.parametrize(
    ("calls", "losses", "knows_loss", "early"),
    [(128, 0, False, True), (129, 0, False, False), (500, 3, True, True), (500, 129, True, False)],
)
def test_is_early_until_each_signal_is_known(calls, losses, knows_loss, early):
    memory = {"calls": calls, "losses": losses}

    assert is_early(memory, SpikeRule(), knows_loss=knows_loss) is early
