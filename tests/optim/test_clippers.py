"""What all clippers have in common, and the simple ones."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimtab.errors import ConfigError
from trimtab.optim import (
    AdaptiveClip,
    AutoClip,
    Clipper,
    NormClip,
    ScaleClipper,
    ValueClip,
    ZClip,
    adaptive_clip_,
    as_clipper,
    clip_grad_norm_,
    clip_grad_value_,
    grad_norms,
)

MODEL = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

CLIPPERS = {
    "norm": lambda: NormClip(0.5),
    "norm-inf": lambda: NormClip(0.5, math.inf),
    "value": lambda: ValueClip(0.05),
    "adaptive": lambda: AdaptiveClip(MODEL),
    "z": lambda: ZClip(warmup_steps=3),
    "z-bounded": lambda: ZClip(warmup_steps=3, max_norm=0.5),
    "auto": lambda: AutoClip(window=5),
}

every_clipper = pytest.mark.parametrize("make", CLIPPERS.values(), ids=CLIPPERS)


def params(norm=1.0, seed=0, dtype=torch.float32):
    """The model's parameters with a gradient of a joint norm."""
    g = torch.Generator().manual_seed(seed)
    grads = [torch.randn(p.shape, generator=g) for p in MODEL.parameters()]
    size = math.sqrt(sum(float(v.square().sum()) for v in grads))
    fresh = [nn.Parameter(p.detach().to(dtype)) for p in MODEL.parameters()]
    for p, v in zip(fresh, grads, strict=True):
        p.grad = (v * (norm / size)).to(dtype)
    return fresh


def grads_of(params):
    return [p.grad.clone() for p in params]


@every_clipper
def test_keeps_the_protocol(make):
    assert isinstance(make(), Clipper)
    assert as_clipper(clipper := make()) is clipper


@every_clipper
def test_never_makes_a_gradient_longer(make):
    clipper = make()
    for step, norm in enumerate([1.0, 0.1, 3.0, 0.2, 50.0, 0.0, 1e-12, 7.0]):
        some = params(norm, seed=step)

        clipped = clipper.clip_(some)

        after = float(grad_norms(some))
        assert after <= norm * (1 + 1e-6)
        assert 0 < float(clipped.coefficient) <= 1
        if not isinstance(clipper, NormClip) or clipper.norm_type == 2:
            assert float(clipped.norms) == pytest.approx(norm, rel=1e-5)
            assert after == pytest.approx(norm * float(clipped.coefficient), rel=1e-5, abs=1e-15)


@every_clipper
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_value_is_not_remembered(make, bad):
    """A clipper that saw a NaN behaves as one that never did."""
    clean, poisoned = make(), make()
    for step in range(8):
        some = params(1 + step % 3, seed=step)
        twin = copy.deepcopy(some)
        for p, q in zip(some, twin, strict=True):
            q.grad = p.grad.clone()

        clean.clip_(some)
        poisoned.clip_(twin)

        torch.testing.assert_close(grads_of(some), grads_of(twin), rtol=0, atol=0)
        poison = params(1.0, seed=step)
        poison[0].grad[1, 1] = bad
        poisoned.clip_(poison)


@pytest.mark.parametrize("kind", [k for k in CLIPPERS if k not in {"value", "adaptive"}])
def test_a_bad_norm_changes_no_gradient(kind):
    some = params(100.0)
    some[1].grad[0] = math.nan
    before = grads_of(some)

    clipped = CLIPPERS[kind]().clip_(some)

    torch.testing.assert_close(grads_of(some), before, rtol=0, atol=0, equal_nan=True)
    assert float(clipped.coefficient) == 1


@every_clipper
def test_goes_on_where_it_was_saved(make):
    one, other = make(), make()
    for step in range(7):
        one.clip_(params(1 + step % 3, seed=step))
    saved = copy.deepcopy(one.state_dict())
    other.load_state_dict(saved)
    for step in range(7, 12):
        mine, theirs = params(2 + step % 3, seed=step), params(2 + step % 3, seed=step)

        one.clip_(mine)
        other.clip_(theirs)

        torch.testing.assert_close(grads_of(mine), grads_of(theirs), rtol=0, atol=0)
    torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=0, atol=0)


@every_clipper
def test_a_saved_state_is_a_copy(make):
    clipper = make()
    clipper.clip_(params(1.0))
    saved = clipper.state_dict()
    before = copy.deepcopy(saved)

    clipper.clip_(params(3.0))

    torch.testing.assert_close(saved, before, rtol=0, atol=0, equal_nan=True)


@every_clipper
def test_nobody_waits_for_the_device(make, no_host_sync):
    clipper = make()
    with no_host_sync():
        for step in range(6):
            clipper.clip_(params_without_reading(step))


def params_without_reading(seed):
    g = torch.Generator().manual_seed(seed)
    fresh = [nn.Parameter(p.detach()) for p in MODEL.parameters()]
    for p in fresh:
        p.grad = torch.randn(p.shape, generator=g)
    return fresh


@every_clipper
def test_nothing_to_clip(make):
    clipped = make().clip_([nn.Parameter(torch.ones(2))])

    assert (float(clipped.norms), float(clipped.coefficient)) == (0, 1)


@every_clipper
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_takes_other_dtypes(make, dtype):
    clipper = make()
    for step in range(6):
        some = params(10.0 * (step + 1), seed=step, dtype=dtype)
        clipper.clip_(some)

        assert all(p.grad.dtype == dtype for p in some)
        assert all(p.grad.isfinite().all() for p in some)


def test_the_objects_do_what_the_functions_do():
    pairs = [
        (NormClip(0.5), lambda ps: clip_grad_norm_(ps, 0.5)),
        (NormClip(0.1, 3), lambda ps: clip_grad_norm_(ps, 0.1, 3)),
        (ValueClip(0.05), lambda ps: clip_grad_value_(ps, 0.05)),
        (AdaptiveClip(nn.ReLU(), 0.02), lambda ps: adaptive_clip_(ps, 0.02)),
    ]
    for clipper, function in pairs:
        mine, theirs = params(2.0), params(2.0)

        clipped, norms = clipper.clip_(mine), function(theirs)

        torch.testing.assert_close(grads_of(mine), grads_of(theirs), rtol=0, atol=0)
        torch.testing.assert_close(clipped.norms.each, norms.each, rtol=0, atol=0)


def test_adaptive_clipping_leaves_the_head_to_itself():
    model = copy.deepcopy(MODEL)
    for p in model.parameters():
        p.grad = torch.ones_like(p)

    AdaptiveClip(model).clip_(model.parameters())

    assert (model[2].weight.grad == 1).all()
    assert (model[0].weight.grad < 1).all()


def test_adaptive_clipping_takes_another_head():
    model = copy.deepcopy(MODEL)
    for p in model.parameters():
        p.grad = torch.ones_like(p)

    AdaptiveClip(model, exclude=[model[0]]).clip_(model.parameters())

    assert (model[0].weight.grad == 1).all()
    assert (model[2].weight.grad < 1).all()


@given(norms=st.lists(st.just(0.0) | st.floats(2**-20, 2**20, width=32), max_size=60))
@settings(max_examples=50, deadline=None)
def test_factors_of_any_history_are_in_bounds(norms):
    for clipper in (NormClip(1.0), ZClip(), ZClip(warmup_steps=2), AutoClip(), AutoClip(100, 3)):
        assert isinstance(clipper, ScaleClipper)
        for norm in norms:
            factor = float(clipper.coefficient(torch.tensor(norm)))
            assert 0 < factor <= 1
            assert factor * norm <= norm


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (0, "positive"),
        (-1.0, "positive"),
        (math.nan, "positive"),
        (math.inf, "finite"),
        (False, "positive"),
        ("1.0", "got str"),
        (ZClip, r"such as ZClip\(\), or None; got ZClip"),
    ],
)
def test_what_is_no_clipper_is_refused(clip, message):
    with pytest.raises(ConfigError, match=message):
        as_clipper(clip)


def test_a_number_is_a_threshold_and_none_is_none():
    assert as_clipper(None) is None
    assert as_clipper(2).max_norm == 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: NormClip(-1),
        lambda: NormClip(math.nan),
        lambda: NormClip(1, norm_type=0),
        lambda: ValueClip(0),
        lambda: AdaptiveClip(MODEL, 0),
        lambda: AdaptiveClip(MODEL, eps=math.inf),
        lambda: AdaptiveClip(MODEL.parameters()),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(ConfigError):
        make()
