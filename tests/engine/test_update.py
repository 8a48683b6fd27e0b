import copy
import math

import pytest
import torch
from torch import nn

from trimtab.engine._update import Update, Updater, record_update
from trimtab.optim import AdaptiveClip, AutoClip, NormClip, ValueClip, ZClip

OPTIMIZERS = {
    "adamw": lambda p, fused: torch.optim.AdamW(p, lr=1e-2, fused=fused, foreach=False),
    "sgd": lambda p, fused: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=fused, foreach=False),
    "adagrad": lambda p, fused: torch.optim.Adagrad(p, lr=1e-2, fused=fused, foreach=False),
}
SHAPES = [(4, 3), (5,), (2, 2, 2)]
LOSS = torch.tensor(1.0)
CLIPPERS = {
    "none": lambda params: None,
    "norm": lambda params: NormClip(0.1),
    "norm-inf": lambda params: NormClip(0.1, norm_type=math.inf),
    "value": lambda params: ValueClip(0.02),
    "adaptive": lambda params: AdaptiveClip(nn.ParameterList(params), clip_factor=0.005),
    "zclip": lambda params: ZClip(),
    "autoclip": lambda params: AutoClip(),
}


@pytest.fixture
def make_updater(make_params):
    """An updater over random parameters, and these; the same every time within one test."""
    start = make_params(SHAPES)

    def make(kind="adamw", fused=True, clip="norm", at_once=True, dtype=torch.float32):
        params = [nn.Parameter(p.detach().clone().to(dtype)) for p in start]
        for p, s in zip(params, start, strict=True):
            p.grad = s.grad.clone().to(dtype)
        optimizer = OPTIMIZERS[kind](params, fused)
        return Updater(optimizer, CLIPPERS[clip](params), at_once=at_once), params

    return make


def values(params):
    return [p.detach().clone() for p in params]


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("clip", CLIPPERS)
@pytest.mark.parametrize("at_once", [True, False])
def test_folded_and_plain_agree(make_updater, kind, clip, at_once):
    folded, a = make_updater(kind, True, clip, at_once)
    plain, b = make_updater(kind, False, clip, at_once)
    assert (folded.folds, plain.folds) == (True, False)
    for _ in range(3):
        grads = [p.grad.clone() for p in a]
        first = folded.apply(divisor=8.0, loss=LOSS)
        second = plain.apply(divisor=8.0, loss=LOSS)
        torch.testing.assert_close(vars(first), vars(second))
        torch.testing.assert_close(values(a), values(b))
        for params in (a, b):
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad * 1.5


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("divisor", [1.0, 4, 64.0, torch.tensor(64.0)])
@pytest.mark.parametrize("max_norm", [None, 0.01, 1e6])
def test_is_divide_clip_step_by_hand(make_updater, kind, fused, at_once, divisor, max_norm):
    updater, params = make_updater(kind, fused, "none", at_once)
    if max_norm is not None:
        updater = Updater(updater.optimizer, NormClip(max_norm), at_once=at_once)
    _, theirs = make_updater()
    reference = OPTIMIZERS[kind](theirs, False)
    for p in theirs:
        p.grad.div_(divisor)
    norm = nn.utils.clip_grad_norm_(theirs, max_norm or math.inf)
    reference.step()

    update = updater.apply(divisor=divisor, loss=LOSS)

    torch.testing.assert_close(values(params), values(theirs), rtol=1e-5, atol=1e-6)
    assert isinstance(update, Update)
    assert float(update.found_inf) == 0
    torch.testing.assert_close(update.norms.total, norm)
    assert float(update.coefficient) == pytest.approx(min(1, (max_norm or math.inf) / float(norm)))


@pytest.mark.parametrize("clip", CLIPPERS)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_every_clipper_sees_the_divided_gradients(make_updater, clip, fused, at_once):
    updater, params = make_updater("sgd", fused, clip, at_once)
    _, theirs = make_updater()
    clipper = CLIPPERS[clip](theirs) or NormClip(1e6)
    reference = OPTIMIZERS["sgd"](theirs, False)
    for p in theirs:
        p.grad.div_(4.0)
    expected = clipper.clip_(theirs)
    reference.step()

    update = updater.apply(divisor=4.0, loss=LOSS)

    torch.testing.assert_close(update.norms, expected.norms)
    torch.testing.assert_close(values(params), values(theirs))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_factor_of_one_is_bitwise_the_plain_step(make_updater, fused, at_once):
    updater, params = make_updater(fused=fused, at_once=at_once)
    updater = Updater(updater.optimizer, NormClip(1e6), at_once=at_once)
    _, theirs = make_updater()
    reference = OPTIMIZERS["adamw"](theirs, fused)
    for _ in range(3):
        updater.apply(divisor=1.0, loss=LOSS)
        reference.step()
    assert_same(values(params), values(theirs))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("clip", CLIPPERS)
@pytest.mark.parametrize("bad", ["gradient", "loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_found_and_nothing_moves(
    make_updater, fused, at_once, clip, bad, value
):
    updater, params = make_updater(fused=fused, clip=clip, at_once=at_once)
    updater.apply(divisor=2.0, loss=LOSS)
    before = values(params)
    state = copy.deepcopy(updater.optimizer.state_dict())
    memory = None if updater.clipper is None else copy.deepcopy(updater.clipper.state_dict())

    loss = torch.tensor(value) if bad == "loss" else LOSS
    if bad == "gradient":
        params[1].grad[2] = value
    update = updater.apply(divisor=2.0, loss=loss)

    assert float(update.found_inf) == 1
    assert bool(update.norms.total.isfinite()) == (bad == "loss")
    assert_same(values(params), before)
    assert_same(updater.optimizer.state_dict(), state)
    if memory is not None:
        assert_same(updater.clipper.state_dict(), memory)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("divisor", [1.0, 8.0])
def test_the_optimizer_is_left_as_it_was(make_updater, at_once, divisor):
    """A GradScaler of the user's would otherwise find our scale on it."""
    updater, _ = make_updater(at_once=at_once)
    before = set(vars(updater.optimizer))
    updater.apply(divisor=divisor, loss=LOSS)
    assert set(vars(updater.optimizer)) == before


def test_gradients_are_not_written_back_without_need(make_updater):
    """A fused kernel writes the divided gradient back, which costs memory traffic."""
    updater, _ = make_updater(clip="none")
    seen = []
    updater.optimizer.register_step_pre_hook(lambda o, *_: seen.append(hasattr(o, "grad_scale")))
    for divisor in (1.0, 2.0):
        updater.apply(divisor=divisor, loss=LOSS)
    assert seen == [False, True]


@pytest.mark.parametrize("at_once", [True, False])
def test_also_when_its_step_raises(make_updater, at_once):
    updater, _ = make_updater(at_once=at_once)
    before = set(vars(updater.optimizer))
    seen = {}

    def fail(optimizer, *_):
        seen.update(vars(optimizer))
        raise KeyError("broken hook")

    hook = updater.optimizer.register_step_pre_hook(fail)
    with pytest.raises(KeyError, match="broken hook"):
        updater.apply(divisor=8.0, loss=LOSS)
    assert "grad_scale" in seen
    assert ("found_inf" in seen) == (not at_once)
    assert set(vars(updater.optimizer)) == before
    hook.remove()
    updater.apply(divisor=8.0, loss=LOSS)


@pytest.mark.parametrize("at_once", [True, False])
def test_float64_keeps_its_digits(make_updater, at_once):
    """`grad_scale` is float32: a third would be off by 1e-8."""
    updater, params = make_updater(dtype=torch.float64, at_once=at_once)
    _, theirs = make_updater(dtype=torch.float64)
    reference = OPTIMIZERS["adamw"](theirs, True)
    for p in theirs:
        p.grad.div_(3.0)
    norm = float(nn.utils.get_total_norm([p.grad for p in theirs]))
    for p in theirs:
        p.grad.mul_(0.1 / norm)
    reference.step()

    update = updater.apply(divisor=3.0, loss=LOSS)

    assert not updater.folds
    assert float(update.norms.total) == pytest.approx(norm, rel=1e-14)
    torch.testing.assert_close(
        [p.grad for p in params], [p.grad for p in theirs], rtol=1e-13, atol=0
    )
    torch.testing.assert_close(values(params), values(theirs), rtol=1e-13, atol=0)


@pytest.mark.parametrize("clip", ["none", "norm", "value"])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("divisor", [1.0, 4.0])
def test_sparse_gradients_move_their_rows_alone(clip, at_once, divisor):
    sparse, dense = nn.Embedding(6, 2, sparse=True), nn.Embedding(6, 2)
    dense.load_state_dict(sparse.state_dict())
    before = sparse.weight.detach().clone()
    for embedding in (sparse, dense):
        embedding(torch.tensor([4, 1, 1, 1])).sum().backward()
        optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
        clipper = CLIPPERS[clip](list(embedding.parameters()))
        update = Updater(optimizer, clipper, at_once=at_once).apply(divisor=divisor, loss=LOSS)
        assert float(update.norms.total) == pytest.approx(math.sqrt(20) / divisor)
    torch.testing.assert_close(sparse.weight, dense.weight)
    moved = (sparse.weight != before).any(dim=1)
    assert moved.tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("fused", [True, False])
def test_parameters_without_gradient_are_passed_over(make_updater, fused):
    updater, params = make_updater(fused=fused)
    params[1].grad = None
    before = params[1].detach().clone()
    assert updater.apply(divisor=2.0, loss=LOSS).norms.each.shape == (2,)
    assert_same(params[1].detach(), before)


@pytest.mark.parametrize("fused", [True, False])
def test_no_gradient_at_all(make_updater, fused):
    updater, params = make_updater(fused=fused)
    before = values(params)
    for p in params:
        p.grad = None
    update = updater.apply(divisor=2.0, loss=LOSS)
    assert float(update.norms.total) == float(update.found_inf) == 0
    assert_same(values(params), before)


@pytest.mark.parametrize("clip", CLIPPERS)
def test_a_folded_update_waits_for_nothing(make_updater, no_host_sync, clip):
    updater, params = make_updater("sgd", True, clip, at_once=False)
    before = values(params)
    with no_host_sync():
        updater.apply(divisor=torch.tensor(2.0), loss=LOSS)
    assert not torch.equal(before[0], params[0])


@pytest.mark.parametrize(
    ("clipper", "threshold"),
    [
        (None, math.nan),
        (NormClip(0.5), 0.5),
        (ZClip(), math.nan),
        (ZClip(max_norm=2), 2.0),
        (ValueClip(0.1), math.nan),
    ],
)
def test_the_threshold_is_the_bound_of_the_clipper(make_updater, clipper, threshold):
    optimizer = make_updater()[0].optimizer
    updater = Updater(optimizer, clipper, at_once=True)
    assert updater.threshold == pytest.approx(threshold, nan_ok=True)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("bad", [True, False])
def test_who_wants_to_know_is_told_where_the_host_knows(make_updater, fused, at_once, bad):
    """Before anything is changed."""
    updater, params = make_updater(fused=fused, at_once=at_once)
    before, told = values(params), []
    updater.on_nonfinite = lambda: told.append(params[0].grad.isnan().any() and values(params))
    if bad:
        params[0].grad[0] = math.nan
    updater.apply(divisor=2.0, loss=LOSS)
    assert updater.tells_host == (at_once or not fused)
    assert len(told) == (bad and updater.tells_host)
    for seen in told:
        assert_same(seen, before)


class Recorded:
    def after_update(self, optimizer, **seen):
        self.optimizer, self.seen = optimizer, seen


def test_what_is_recorded_of_an_update(make_updater):
    updater, _ = make_updater()
    update = updater.apply(divisor=2.0, loss=LOSS)
    recorder = Recorded()
    record_update(
        recorder,
        updater,
        update,
        divisor=2.0,
        loss=LOSS,
        learning_rate=0.5,
        loss_scale=4.0,
        which=3,
    )
    assert recorder.optimizer is updater.optimizer
    assert recorder.seen["values"] == {
        "loss": LOSS,
        "gradient.clip_coefficient": update.coefficient,
        "gradient.clip_threshold": 0.1,
        "learning_rate": 0.5,
        "loss_scale": 4.0,
        "step.skipped": update.found_inf,
        "step.flagged": 0.0,
    }
    assert (recorder.seen["divisor"], recorder.seen["which"]) == (2.0, 3)
    assert recorder.seen["norms"] is update.norms
