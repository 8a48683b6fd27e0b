"""The faults that are injected into real trainings, and what is measured of them."""

import errno
import math
import struct
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from injection import faults, measures, training  # noqa: E402
from injection import run as bench  # noqa: E402
from injection import work as worker  # noqa: E402
from injection.faults import FAULTS, baseline_of, flip, start_of  # noqa: E402
from injection.protections import MAX_NORM, PEERS, PROTECTIONS, Olmo, Parts  # noqa: E402
from injection.tasks import MARK_TOKEN, Outliers, find_task, generator, mark  # noqa: E402
from injection.training import Job  # noqa: E402

HERE = [name for name in PROTECTIONS if name in {"none", "clip", "olmo", "oracle"}]


@pytest.fixture
def at_step_2(monkeypatch):
    """Let faults begin at the third batch, so that a short run meets them."""
    monkeypatch.setattr(faults, "START", 2)


def outcome(fault, protection="none", *, model="cnn", steps=6, seed=0):
    return training.run(Job(model, fault, protection, seed, steps=steps))


@pytest.mark.parametrize(
    ("value", "bit", "flipped"),
    [
        (0.02, 30, 0.02 * 2.0**128),
        (1.5, 30, math.nan),  # its exponent is then all ones
        (1e-6, None, 1e-6 * 2.0**-64),
        (3.0, None, 3.0 * 2.0**-128),
    ],
)
def test_flip_changes_one_exponent_bit(value, bit, flipped):
    values = torch.full((2, 3), value)
    before = values.clone()

    flip(values, generator(0), bit=bit)

    changed = values != before
    assert changed.sum() == 1
    found = values[changed].item()
    expected = struct.unpack("f", struct.pack("f", flipped))[0]
    assert found == pytest.approx(expected, nan_ok=True, rel=1e-6)


def test_flip_of_the_same_bit_twice_is_no_flip():
    values = torch.randn(50, generator=generator(1))
    before = values.clone()

    flip(values, generator(2), bit=30)
    flip(values, generator(2), bit=30)

    assert torch.equal(values, before)


@pytest.mark.parametrize("model", ["gpt", "cnn"])
@pytest.mark.parametrize("name", [n for n, f in FAULTS.items() if f.data is not None])
def test_fault_of_the_data_hits_its_batches_alone_and_always_alike(name, model):
    fault, task = FAULTS[name], find_task(model)
    for seed in range(3):
        begin = start_of(seed)
        for index in (begin - 1, begin, begin + fault.steps - 1, begin + fault.steps):
            x, y = task.batch(seed, index)
            first, again = (fault.alter(seed, index, (x, y, 1.0)) for _ in range(2))
            for one, other in zip(first, again, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
            untouched = torch.equal(first[0], x) and torch.equal(first[1], y) and first[2] == 1
            assert untouched != (begin <= index < begin + fault.steps)


def test_batches_are_a_function_of_seed_and_index():
    for name in ("gpt", "cnn"):
        task = find_task(name)
        (x, y), (again, _), (other, _) = (task.batch(*at) for at in [(0, 7), (0, 7), (1, 7)])
        assert torch.equal(x, again)
        assert not torch.equal(x, other)
        assert len(x) == len(y) == task.batch_size


@pytest.mark.parametrize("name", ["gpt", "cnn"])
def test_marked_examples_overflow_in_float16_and_change_nothing_in_float32(name):
    task = find_task(name, half=True)
    plain, wrapped = task.model(0), Outliers(task.model(0))
    x, _ = task.batch(0, 0)

    for inputs in (x, mark(x)):
        torch.testing.assert_close(wrapped(inputs), plain(inputs), rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.float16):
        assert wrapped(x).isfinite().all()
        assert not wrapped(mark(x)).isfinite().all()
    if name == "gpt":
        assert (mark(x) == MARK_TOKEN).sum() == 1


@pytest.mark.usefixtures("at_step_2")
@pytest.mark.parametrize("protection", HERE)
def test_nan_batch_is_survived_by_who_leaves_it_out(protection):
    found = outcome("nan-batch", protection)

    assert found.error == ""
    assert found.finite == found.buffers_finite == (protection == "oracle")
    assert found.lost == (protection == "oracle")
    assert math.isfinite(found.validation) == (protection == "oracle")


@pytest.mark.usefixtures("at_step_2")
def test_every_protection_meets_the_same_fault():
    clean, losses = outcome("clean").losses, [outcome("loss-x1000", p).losses for p in HERE]

    for found in losses:
        assert found[0] == clean[0]  # nobody has clipped yet
        assert found[2] == pytest.approx(1000 * clean[2], rel=0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("at_step_2")
@pytest.mark.parametrize(
    ("model", "name"), [(m, n) for n, f in FAULTS.items() for m in f.models if not f.garbage]
)
def test_fault_reaches_the_run(model, name):
    found, clean = (outcome(n, model=model, steps=4) for n in (name, baseline_of(FAULTS[name])))

    assert found.error == clean.error == ""
    assert found.losses[:2] == clean.losses[:2]
    same = found.losses == clean.losses and found.validation == clean.validation
    assert same == name.startswith("clean")


def test_full_disk_refuses_writes_until_it_is_left():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        with training._Disk(full=True) as disk:
            disk.fill()
            with pytest.raises(OSError, match="too large") as caught:
                file.write_bytes(b"x")
        file.write_bytes(b"x")

    assert caught.value.errno == errno.EFBIG


def test_rule_of_olmo_judges_by_six_deviations_of_the_window_before():
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    rule = Olmo(Parts(model, optimizer, schedule, half=False))
    noise = torch.randn(200, generator=generator(3)).tolist()

    def decide(loss, norm=1.0):
        rule.loss = torch.tensor(loss)
        model.weight.grad = torch.full_like(model.weight, norm)
        return rule.decide(0)

    norms = [1 + 0.1 * n for n in reversed(noise)]
    assert all(map(decide, noise[:100], norms))
    window = torch.tensor(noise[:100])
    mean, std = window.mean().item(), window.std().item()
    assert decide(mean + 5.9 * std)
    window = torch.tensor([*noise[:100], mean + 5.9 * std])
    assert not decide(window.mean().item() + 6.1 * window.std().item())
    assert not decide(noise[100], norm=20.0)
    assert not decide(math.nan)
    assert not decide(noise[101])  # the NaN is in the window now
    assert model.weight.grad.norm() <= MAX_NORM


def test_recovery_is_counted_from_the_fault_to_the_last_step_that_was_off():
    clean = [1.0] * 300
    begin = start_of(0)

    def with_harm(first, last, loss):
        return [loss if first <= i <= last else 1.0 for i in range(300)]

    recovery = measures.recovery
    assert recovery(clean, clean, "flipped-weight", 0) == 0
    # The last mean over ten that a doubled loss is in ends nine steps behind it.
    assert recovery(with_harm(begin, begin + 4, 2.0), clean, "flipped-weight", 0) == 14
    assert recovery(with_harm(begin, begin + 4, 2.0), clean, "garbage-labels-5", 0) == 0
    assert recovery(with_harm(begin, begin + 4, 1.01), clean, "flipped-weight", 0) == 0
    assert recovery(with_harm(begin, 299, 1.5), clean, "flipped-weight", 0) is None
    assert recovery(with_harm(begin, 299, math.nan), clean, "flipped-weight", 0) is None
    assert recovery(clean[:200], clean, "flipped-weight", 0) is None  # it was stopped


def test_verdict_is_the_first_incident_since_the_fault():
    def incident(detected, name):
        return {"detected": detected, "name": name}

    begin = start_of(0)
    early, right = incident(begin - 9, "bad-batch"), incident(begin, "bad-batch")
    wrong = incident(begin + 1, "unexplained-incident")
    verdict = measures.verdict
    assert verdict([early, right, wrong], "nan-batch", 0) == ("bad-batch", True)
    assert verdict([wrong, right], "nan-batch", 0) == ("unexplained-incident", False)
    assert verdict([early], "nan-batch", 0) == (None, False)


def test_summary_counts_what_runs_are_worth():
    clean = {"losses": [1.0] * 300, "validation": 2.0}
    good = {"losses": [1.0] * 300, "validation": 2.01, "lost": 1, "finite": True}
    good |= {
        "buffers_finite": True,
        "error": "",
        "incidents": [{"detected": 150, "name": "bad-batch"}],
    }
    lost = good | {
        "losses": [math.nan] * 300,
        "validation": math.nan,
        "finite": False,
        "incidents": [],
    }
    rows = [
        measures.row(bench.make_job("cnn", "nan-batch", "stepper", 0), found, clean)
        for found in (good, lost)
    ]

    (line,) = measures.summarise(rows)

    assert line["excess_worst"] == math.inf
    assert (line["within_goal"], line["finite"], line["recovered"], line["right"]) == (1, 1, 1, 1)
    assert line["causes"] == ["None", "bad-batch"]
    job = bench.make_job("cnn", "nan-batch", "stepper", 0)
    assert "right" not in measures.row(job, lost, clean, harmless=True)
    assert measures.row(job, good, clean, harmless=True)["right"]
    assert measures.is_harmless(good, clean)
    assert not measures.is_harmless(lost, clean)
    assert not measures.is_harmless(good | {"validation": 2.03}, clean)
    assert measures.overall([line])["stepper"] == {
        "runs": 2,
        "within_goal": 0.5,
        "finite": 0.5,
        "recovered": 0.5,
        "right_cause": 0.5,
    }


def test_peers_are_protections_and_named_in_their_list():
    listed = (ROOT / "benchmarks" / "peers.txt").read_text()

    assert set(PROTECTIONS) >= PEERS
    assert all(f"{peer}==" in listed for peer in PEERS)


@pytest.mark.slow
@pytest.mark.dist
def test_two_ranks_stay_alike_and_a_worker_that_dies_is_an_answer():
    jobs = [
        bench.make_job("cnn", "clean-2-ranks", "none", 0, steps=2),
        bench.make_job("cnn", "no such fault", "none", 0, steps=2),
        bench.make_job("cnn", "clean", "none", 0, steps=2),
    ]

    two, died, one = bench.run_jobs(sys.executable, jobs)

    assert two["replicas_agree"]
    assert two["losses"][0] != one["losses"][0]  # of half the batch
    assert died["error"] == "its process died or took too long"
    assert one == worker.answer(jobs[2]) | {"seconds": one["seconds"]}


def test_runs_that_were_kept_are_not_run_again(tmp_path, monkeypatch):
    jobs = [bench.make_job("cnn", "clean", "none", seed) for seed in range(3)]
    asked = []

    def run_jobs(_python, part):
        asked.extend(part)
        return [{"validation": job["seed"] / 2} for job in part]

    monkeypatch.setattr(bench, "run_jobs", run_jobs)
    file = tmp_path / "kept.jsonl"
    bench.answer_all(jobs[:2], None, 2, {}, file)
    done = bench.read_answers(file)
    bench.answer_all([*jobs, jobs[2]], None, 2, done, file)

    assert sorted(job["seed"] for job in asked) == [0, 1, 2]
    assert bench.read_answers(file) == done
    assert done[bench.key(jobs[2])] == {"validation": 1.0}
