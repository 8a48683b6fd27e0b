import math
import random

import pytest

from trimtab.guard._divergence import WINDOW, Divergence


def seen(losses, norms=None):
    """Return the step, from 1, at which a run is said to have diverged; None if never."""
    divergence = Divergence()
    norms = [1.0] * len(losses) if norms is None else norms
    for step, pair in enumerate(zip(losses, norms, strict=True), start=1):
        if divergence.see(*pair):
            return step
    return None


def noisy(levels, spread=0.05, seed=0):
    draw = random.Random(seed)
    return [level * (1 + spread * draw.gauss(0, 1)) for level in levels]


FALL = [2.0 * 0.98**i + 0.1 for i in range(200)]
LOST = [2.0 * 1.02**i for i in range(100)]


def test_sees_a_run_that_lost_all_it_had_learned():
    norms = noisy([1.0] * 200 + [3.0] * 100)

    assert seen(noisy(FALL + LOST), norms) == 215  # more than half of the window


def test_says_so_of_a_constant_loss_too():
    losses = [2.0] * 20 + [1.0] * 40 + [2.5] * 40

    assert seen(losses, [1.0] * 60 + [3.0] * 40) == 75


@pytest.mark.parametrize(
    ("losses", "norms"),
    [
        (noisy(FALL), noisy([1.0] * 200)),
        (noisy(FALL + [0.5] * 100), noisy([1.0] * 200 + [3.0] * 100)),  # higher, but learned
        (noisy(FALL + LOST), noisy([1.0] * 300)),  # the gradients say nothing
        (noisy([2.0] * 200 + [2.4] * 100), noisy([1.0] * 200 + [3.0] * 100)),  # nothing to lose
        ([math.nan] * 300, noisy([1.0] * 200 + [3.0] * 100)),  # a loop that shows no loss
    ],
    ids=["falls", "half lost", "calm", "learned nothing", "no loss"],
)
def test_is_silent_on(losses, norms):
    assert seen(losses, norms) is None


def test_needs_a_window_of_steps_and_looks_at_every_fifth():
    divergence = Divergence()
    answers = [divergence.see(1.0, 1.0) for _ in range(WINDOW - 1)]
    assert divergence._first is None
    divergence.see(1.0, 1.0)

    assert not any(answers)
    assert divergence._first == (1.0, 0.0)


def test_begins_anew_after_a_return():
    divergence = Divergence()
    for loss in [2.0] * 20 + [1.0] * 40:
        divergence.see(loss, 1.0)
    for _ in range(14):
        assert not divergence.see(2.5, 3.0)

    divergence.forget()

    assert not any(divergence.see(1.0, 1.0) for _ in range(WINDOW))
    assert any(divergence.see(2.5, 3.0) for _ in range(WINDOW))  # what it had learned stays known


def test_resumes_in_the_middle():
    pairs = [(2.0, 1.0)] * 20 + [(1.0, 1.0)] * 40 + [(2.5, 3.0)] * 7
    divergence, resumed = Divergence(), Divergence()
    for pair in pairs:
        divergence.see(*pair)

    resumed.load_state_dict(divergence.state_dict())

    answers = [divergence.see(2.5, 3.0) for _ in range(10)]
    assert any(answers)
    assert [resumed.see(2.5, 3.0) for _ in range(10)] == answers
