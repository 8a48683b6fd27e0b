"""The making of a loop's guard; what it does, tests/guard shows."""

import pytest
import torch
from torch import nn

from trimtab.engine._loop_guard import clippers_for, make_loop_guard
from trimtab.guard import Guard
from trimtab.optim import NormClip, ZClip
from trimtab.signals import Recorder, Watch


def guard_of(config, *kinds):
    model = nn.ModuleList([nn.Linear(3, 1) for _ in kinds])
    optimizers = [kind(m.parameters(), lr=0.1) for kind, m in zip(kinds, model, strict=True)]
    recorder = Recorder(model, *[list(m.parameters()) for m in model], watch=Watch())
    try:
        return make_loop_guard(
            config,
            model,
            optimizers,
            clippers=[NormClip(0.5) for _ in kinds],
            recorder=recorder,
            stateful={},
            run_config=None,
            folder=lambda: None,
            apply=lambda _: False,
            joint=True,
        )
    finally:
        recorder.close()


SGD, LBFGS = torch.optim.SGD, torch.optim.LBFGS


@pytest.mark.parametrize("kinds", [(SGD,), (SGD, SGD)])
def test_steps_can_be_made_again(kinds):
    guard, rerun = guard_of(Guard(), *kinds)

    assert guard.replayer is rerun
    assert rerun.max_norm == 0.5
    assert len(guard.policies) == len(kinds)
    assert set(guard.live.parts) == {f"clipper{i}" for i in range(len(kinds))}


def test_not_those_of_an_optimizer_that_makes_several_passes_itself():
    guard, rerun = guard_of(Guard(), SGD, LBFGS)

    assert rerun is None
    assert not guard.keeps_tape


@pytest.mark.parametrize(("config", "kinds"), [(None, (SGD,)), (Guard(), (LBFGS,))])
def test_there_is_none_where_nothing_can_be_guarded(config, kinds):
    assert guard_of(config, *kinds) == (None, None)


def test_a_clipper_that_remembers_is_not_shared():
    plain, remembering = NormClip(1.0), ZClip()

    assert clippers_for(plain, 2) == [plain, plain]
    assert clippers_for(None, 2) == [None, None]
    first, second = clippers_for(remembering, 2)
    assert first is remembering
    assert second is not first
