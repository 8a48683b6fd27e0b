import pytest
import torch

from trimtab import ConfigError
from trimtab.precision import LossScaler, autocast, best_precision


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_autocast_runs_matrix_products_in_the_dtype(precision, dtype):
    with autocast("cpu", precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_an_unknown_precision_lists_the_known():
    with pytest.raises(ConfigError, match="one of fp32, bf16, fp16, got 'half'"):
        autocast("cpu", "half")


def test_a_cpu_trains_in_float32_by_default():
    assert best_precision("cpu") == "fp32"


def drive_both(pattern, **options):
    """Our scale and GradScaler's after each step of a pattern of overflows."""
    ours = LossScaler(options["init_scale"], interval=options["growth_interval"], min_scale=1e-9)
    theirs = torch.amp.GradScaler("cpu", **options)
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=0.0)
    for overflow in pattern:
        theirs.scale(p.sum())
        p.grad = torch.full((1,), float("inf") if overflow else 0.0)
        theirs.step(optimizer)
        theirs.update()
        ours.update(torch.tensor(float(overflow)))
        yield float(ours.scale), theirs.get_scale()


def test_moves_like_torch_grad_scaler():
    generator = torch.Generator().manual_seed(0)
    pattern = (torch.rand(300, generator=generator) < 0.2).tolist()
    scales = list(drive_both(pattern, init_scale=1024.0, growth_interval=3))
    assert all(ours == theirs for ours, theirs in scales)
    assert len({ours for ours, _ in scales}) > 5


def test_never_falls_below_the_minimum():
    scaler = LossScaler(4.0, min_scale=1.0)
    for _ in range(5):
        scaler.update(torch.tensor(1.0))
    assert float(scaler.scale) == 1.0


def test_never_grows_to_infinity():
    scaler = LossScaler(2.0**127, interval=1)
    scaler.update(torch.tensor(0.0))
    assert float(scaler.scale) == 2.0**127


def test_hysteresis_forgives_until_it_is_used_up():
    """DeepSpeed's rule: it is refilled by a full window of good steps only."""
    scaler = LossScaler(64.0, hysteresis=2, interval=2)
    scales = []
    for overflow in (1, 1, 1, 0, 0, 1, 1):
        scaler.update(torch.tensor(float(overflow)))
        scales.append(float(scaler.scale))
    assert scales == [64, 32, 16, 16, 32, 32, 16]


def test_resumes_bit_for_bit():
    straight, saved = LossScaler(64.0, interval=3), LossScaler(64.0, interval=3)
    for overflow in (0, 0):
        straight.update(torch.tensor(float(overflow)))
        saved.update(torch.tensor(float(overflow)))
    resumed = LossScaler(interval=3)
    resumed.load_state_dict(saved.state_dict())
    straight.update(torch.tensor(0.0))
    resumed.update(torch.tensor(0.0))
    assert float(resumed.scale) == float(straight.scale) == 128


def test_an_update_waits_for_nothing(no_host_sync):
    scaler = LossScaler()
    with no_host_sync():
        scaler.update(torch.tensor(1.0))


@pytest.mark.parametrize(
    "options",
    [
        {"init_scale": 0.0},
        {"init_scale": float("nan")},
        {"growth": 1.0},
        {"backoff": 1.0},
        {"interval": 0},
        {"hysteresis": 0},
        {"min_scale": 0.0},
    ],
)
def test_bad_values_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        LossScaler(**options)
