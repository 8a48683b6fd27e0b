import math

import pytest
import torch
from torch import nn

from trimtab.diagnosis import Outcome
from trimtab.errors import ConfigError
from trimtab.repair._goal import Goal


def outcome(end=0.5, losses=(1.0,)):
    from trimtab.diagnosis._outcome import Probe

    probe = Probe(loss=1.0, shuffled=1.0, finite=True)
    return Outcome(probe, Probe(loss=end, shuffled=1.0, finite=math.isfinite(end)), 1.0, losses)


def test_metric_is_asked_in_evaluation_mode_without_gradients_and_modes_come_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    model[1].eval()
    seen = []

    def metric(m):
        seen.append((m.training, m[1].training, torch.is_grad_enabled(), torch.rand(1).item()))
        return 2.0

    before = torch.get_rng_state()
    assert Goal(metric, seed=3).measure(model) == 2.0
    assert seen[0][:3] == (False, False, False)
    assert (model.training, model[1].training) == (True, False)
    assert torch.equal(torch.get_rng_state(), before)
    assert math.isnan(Goal().measure(model))


def test_value_is_the_metric_turned_the_right_way_or_what_was_learned():
    assert Goal(len).value(0.7, outcome()) == 0.7
    assert Goal(len, higher_is_better=False).value(0.7, outcome()) == -0.7
    assert Goal().value(math.nan, outcome(end=0.25)) == pytest.approx(0.75)
    assert Goal(len).value(0.7, outcome(losses=(1.0, math.nan))) == -math.inf
    assert Goal(len).value(math.nan, outcome()) == -math.inf


def test_target():
    assert Goal(len, 0.9).reached(0.9)
    assert not Goal(len, 0.9).reached(0.8)
    assert Goal(len, 0.1, higher_is_better=False).reached(0.05)
    assert not Goal(len, 0.1, higher_is_better=False).reached(math.nan)
    assert Goal(len).reached(5.0) is None


def test_a_trial_far_on_its_way_to_the_target_convinces():
    goal = Goal(len, 1.0)
    assert goal.is_convincing(0.5, 0.0)
    assert not goal.is_convincing(0.3, 0.0)
    assert not goal.is_convincing(0.6, 0.0, again=True)
    assert goal.is_convincing(0.7, 0.0, again=True)
    assert not goal.is_convincing(-math.inf, -math.inf)
    assert not goal.is_convincing(0.5, -math.inf)
    down = Goal(len, 0.1, higher_is_better=False)
    assert down.is_convincing(-0.5, -0.9)
    assert not down.is_convincing(-0.7, -0.9)
    assert Goal().is_convincing(0.6, 0.0)
    assert not Goal(len).is_convincing(100.0, 0.0)


def test_a_target_needs_a_metric():
    with pytest.raises(ConfigError) as error:
        Goal(None, 0.9)
    assert str(error.value) == (
        "target=0.9 has to be reached by a metric, but there is none. Pass metric=, a function "
        "that takes the trained model and returns a number."
    )


def test_a_trial_that_is_no_better_gives_no_hope():
    goal = Goal(len, 1.0)
    assert goal.is_hopeful(0.1, 0.0)
    assert not goal.is_hopeful(0.05, 0.0)
    assert Goal(len).is_hopeful(0.1, 0.0)
    assert not Goal(len).is_hopeful(0.0, 0.0)
    assert Goal().is_hopeful(0.05, 0.0)
    assert not Goal().is_hopeful(0.01, 0.0)


def test_what_is_missing_to_the_target():
    assert Goal(len, 0.5, higher_is_better=True).gap(0.2) == pytest.approx(0.3)
    assert Goal(len, 0.5, higher_is_better=False).gap(-0.8) == pytest.approx(0.3)
    assert Goal(len, 0.5, higher_is_better=False).gap(-0.4) < 0
    assert math.isnan(Goal().gap(0.5))
