import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab import ConfigError
from trimtab.recipes import GPTConfig
from trimtab.recipes._gpt import (
    ALL_WINDOWS,
    QUICK_WINDOWS,
    GPTLossConfig,
    GPTModelConfig,
    build,
)
from trimtab.train import OptimizerConfig, RunConfig

CONTEXT = 8
SMALL = {"depth": 2, "dim": 16, "heads": 2, "context": CONTEXT}


@pytest.fixture
def text(tmp_path):
    """A text whose last tenth, and that alone, is in capitals."""
    path = tmp_path / "text.txt"
    path.write_text(
        "the quick brown fox jumps over the lazy dog, " * 200 + "OVER THE LAZY DOG " * 55
    )
    return path


@pytest.fixture
def make_task(text):
    def make(seed=0, batch_size=4, task=(), **model):
        config = GPTConfig(
            run=RunConfig(seed=seed),
            optimizer=OptimizerConfig(batch_size=batch_size),
            model=GPTModelConfig(**{**SMALL, **model}),
            task=GPTLossConfig(**{"data": text, **dict(task)}),
        )
        return build(config, torch.Generator().manual_seed(seed))

    return make


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_with_a_z_loss(make_task, z_loss, smoothing):
    task = make_task(task={"z_loss": z_loss, "label_smoothing": smoothing})
    inputs, targets = task.batch(0)
    logits = task.model(inputs).double()
    expected = functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing
    )
    expected += z_loss * logits.logsumexp(dim=-1).square().mean()
    torch.testing.assert_close(task.loss(task.model, (inputs, targets)), expected.float())


def test_a_batch_weighs_its_tokens(make_task):
    task = make_task(batch_size=4)
    inputs, targets = task.batch(0)
    assert inputs.shape == targets.shape == (4, CONTEXT)
    assert task.weight((inputs, targets)) == 32
    assert task.unit == "tokens"


def test_a_batch_depends_on_seed_and_index_alone(make_task):
    ours, again, other = make_task(seed=1), make_task(seed=1), make_task(seed=2)
    again.batch(3)
    assert torch.equal(ours.batch(7)[0], again.batch(7)[0])
    assert not torch.equal(ours.batch(7)[0], ours.batch(8)[0])
    assert not torch.equal(ours.batch(7)[0], other.batch(7)[0])
    assert make_task(seed=2**63 - 1).batch(10**9)[0].shape == (4, CONTEXT)


def test_training_never_sees_the_validation_part(make_task):
    task = make_task(batch_size=64)
    seen = bytes(torch.cat([task.batch(i)[1].flatten() for i in range(50)]).tolist()).decode()
    assert seen.islower()


@torch.no_grad()
@pytest.mark.parametrize(("scope", "most"), [("quick", QUICK_WINDOWS), ("full", ALL_WINDOWS)])
def test_the_validation_loss_is_the_mean_over_unseen_text(make_task, text, scope, most):
    """Plain cross-entropy, whatever the training loss adds; batches are not equally large."""
    task = make_task(task={"z_loss": 0.1, "label_smoothing": 0.1})
    data = torch.tensor(list(text.read_bytes()[-(text.stat().st_size // 10) :]))
    windows = data.unfold(0, CONTEXT + 1, CONTEXT)
    if len(windows) > most:
        windows = windows[torch.linspace(0, len(windows) - 1, most).long()]
    assert len(windows) == most if scope == "quick" else len(windows) % 32
    logits = task.model(windows[:, :-1]).double()
    expected = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    scores = task.evaluate(task.model, scope)

    assert scores == pytest.approx({"val_loss": float(expected)}, rel=1e-6)


def test_the_first_loss_is_that_of_guessing(make_task):
    task = make_task(task={"z_loss": 0.0})
    assert task.loss(task.model, task.batch(0)).item() == pytest.approx(math.log(256), abs=0.3)


def test_it_learns_this_text(make_task):
    task = make_task()
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    before = task.loss(task.model, task.batch(0)).item()
    for index in range(60):
        optimizer.zero_grad()
        task.loss(task.model, task.batch(index)).backward()
        optimizer.step()
    assert task.loss(task.model, task.batch(0)).item() < before / 2


class TestModel:
    def test_the_shape_is_the_one_asked_for(self, make_task):
        model = make_task(depth=3, dim=24, heads=3).model
        assert len(model.blocks) == 3
        assert model.embedding.weight.shape == (256, 24)
        assert model.max_len == CONTEXT

    def test_the_same_seed_gives_the_same_weights(self, make_task):
        ours, again, other = (make_task(seed=s).model.state_dict() for s in (1, 1, 2))
        assert all(torch.equal(ours[name], again[name]) for name in ours)
        assert not torch.equal(ours["embedding.weight"], other["embedding.weight"])

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("feed_forward", "gelu"),
            ("norm", "layer"),
            ("positions", "learned"),
            ("qk_norm", False),
            ("attention_softcap", 0.01),
            ("final_softcap", 0.01),
        ],
    )
    def test_every_setting_makes_another_network(self, make_task, setting, value):
        plain, changed = make_task(), make_task(**{setting: value})
        tokens = plain.batch(0)[0]
        for task in (plain, changed):
            task.model.eval()
            for p in task.model.parameters():  # so that no branch is too small to see
                p.data = torch.linspace(-1, 1, p.numel()).view(p.shape).cos()
        assert not torch.allclose(plain.model(tokens), changed.model(tokens), rtol=1e-3)

    def test_the_final_softcap_bounds_the_logits(self, make_task):
        model = make_task(final_softcap=0.01).model
        assert model(torch.arange(8)[None]).abs().max() <= 0.01

    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    def test_dropout_acts_while_training_only(self, make_task, dropout):
        task = make_task(dropout=dropout)
        tokens = task.batch(0)[0]
        for p in task.model.parameters():
            nn.init.constant_(p, 0.1)
        nn.init.normal_(task.model.embedding.weight, generator=torch.Generator().manual_seed(0))
        assert torch.equal(task.model(tokens), task.model(tokens)) == (dropout == 0)
        task.model.eval()
        assert torch.equal(task.model(tokens), task.model(tokens))


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (GPTModelConfig, {"depth": 0}, "depth must be at least 1, got 0"),
        (GPTModelConfig, {"context": 0}, "context must be at least 1, got 0"),
        (GPTModelConfig, {"dim": 10, "heads": 4}, "dim 10 cannot be divided among 4 heads"),
        (GPTModelConfig, {"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        (GPTModelConfig, {"final_softcap": -1.0}, "final_softcap must be 0 or more, got -1.0"),
        (GPTModelConfig, {"attention_softcap": math.nan}, "attention_softcap must be 0 or more"),
        (GPTLossConfig, {"z_loss": -1e-4}, "z_loss must be 0 or more, got -0.0001"),
        (GPTLossConfig, {"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
    ],
)
def test_bad_settings(cls, settings, message):
    with pytest.raises(ConfigError, match=message):
        cls(**settings)


def test_a_text_too_short_for_the_context(make_task, text):
    text.write_text("short")
    with pytest.raises(ConfigError, match="with context 8 it needs at least 18"):
        make_task()


def test_the_default_text_needs_no_file():
    config = replace(GPTConfig(), model=GPTModelConfig(**SMALL))
    inputs, _ = build(config, torch.Generator().manual_seed(0)).batch(0)
    assert b" " in bytes(inputs.flatten().tolist())
