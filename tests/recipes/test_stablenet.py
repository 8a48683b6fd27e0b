from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from trimtab import ConfigError
from trimtab.recipes import StableNetConfig, find_recipe
from trimtab.recipes._stablenet import Digits, StableNetModelConfig, build
from trimtab.train import OptimizerConfig, RunConfig, train


@pytest.fixture(scope="module")
def digits():
    return Digits.load(seed=0)


@pytest.fixture
def make_task(generator):
    def make(batch_size=32, seed=0, **model):
        config = StableNetConfig(
            run=RunConfig(seed=seed),
            optimizer=OptimizerConfig(batch_size=batch_size),
            model=StableNetModelConfig(**{"depth": 2, "width": 16, "dropout": 0.0, **model}),
        )
        return build(config, generator)

    return make


class TestDigits:
    def test_the_three_parts_make_the_whole_without_overlap(self, digits):
        """Shared pictures would show as a sum of rows that is too large or a row found twice."""
        images, labels = load_digits(return_X_y=True)
        parts = [part[0] for part in digits.parts.values()]
        assert [len(part) for part in parts] == [1293, 144, 360]
        assert len(torch.cat(parts).unique(dim=0)) == len(torch.tensor(images).unique(dim=0))
        counts = sum(part[1].bincount(minlength=10) for part in digits.parts.values())
        assert counts.tolist() == torch.tensor(labels).bincount().tolist()

    @pytest.mark.parametrize("part", ["training", "validation", "test"])
    def test_every_part_holds_all_digits_alike(self, digits, part):
        counts = digits.parts[part][1].bincount(minlength=10)
        assert counts.max() <= 1.25 * counts.min()

    def test_pixels_are_standardised_by_the_training_part(self, digits):
        images = digits.parts["training"][0].double()
        assert images.dtype == torch.float64
        assert images.mean().item() == pytest.approx(0, abs=1e-6)
        assert images.std(correction=0).item() == pytest.approx(1, rel=1e-5)
        assert abs(digits.parts["test"][0].mean().item()) < 0.1

    def test_the_parts_are_the_same_for_every_seed(self, digits):
        other = Digits.load(seed=5)
        for name, (images, labels) in digits.parts.items():
            assert torch.equal(images, other.parts[name][0])
            assert torch.equal(labels, other.parts[name][1])

    def test_an_epoch_visits_every_example_at_most_once(self, digits):
        per_epoch = 1293 // 64
        seen = torch.cat([digits.batch(i, 64)[0] for i in range(per_epoch)])
        assert len(seen.unique(dim=0)) == len(seen) == per_epoch * 64
        following = torch.cat([digits.batch(i, 64)[0] for i in range(per_epoch, 2 * per_epoch)])
        assert len(following.unique(dim=0)) == len(seen)
        assert not torch.equal(seen, following)

    def test_labels_stay_with_their_pictures(self, digits):
        images, labels = digits.parts["training"]
        number = {tuple(x): int(y) for x, y in zip(images.tolist(), labels, strict=True)}
        for x, y in zip(*digits.batch(17, 16), strict=True):
            assert number[tuple(x.tolist())] == int(y)

    @pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
    def test_a_batch_depends_on_seed_and_index_alone(self, digits, seed):
        ours, again = replace(digits, seed=seed), replace(digits, seed=seed)
        again.batch(3, 8)
        assert torch.equal(ours.batch(100, 8)[0], again.batch(100, 8)[0])
        assert not torch.equal(ours.batch(100, 8)[0], ours.batch(101, 8)[0])
        other = replace(digits, seed=seed - 1 if seed else 1)
        assert not torch.equal(ours.batch(100, 8)[0], other.batch(100, 8)[0])

    def test_a_batch_larger_than_the_training_part(self, digits):
        assert len(digits.batch(5, 1293)[0]) == 1293
        with pytest.raises(ConfigError, match="batch_size 1294 is more than the 1293 training"):
            digits.batch(0, 1294)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy(make_task, smoothing):
    task = make_task(label_smoothing=smoothing)
    images, labels = task.batch(0)
    logits = task.model(images).double()
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(task.loss(task.model, (images, labels)), expected.float())
    assert task.weight((images, labels)) == 32


@torch.no_grad()
def test_evaluation_looks_at_the_test_part_at_the_end_only(make_task, digits):
    task = make_task(label_smoothing=0.2)
    images, labels = digits.parts["validation"]
    expected = float(functional.cross_entropy(task.model(images), labels))
    quick, full = task.evaluate(task.model, "quick"), task.evaluate(task.model, "full")
    assert quick == pytest.approx({"val_loss": expected})
    images, labels = digits.parts["test"]
    right = float((task.model(images).argmax(dim=1) == labels).double().mean())
    assert full == pytest.approx({"val_loss": expected, "test_accuracy": right})


def test_the_first_loss_is_that_of_guessing(make_task):
    task = make_task()
    assert task.loss(task.model, task.batch(0)).item() == pytest.approx(2.303, abs=0.1)


@pytest.mark.parametrize("residual", ["pre_norm", "deep_norm", "rezero", "layer_scale", "highway"])
def test_the_shape_is_the_one_asked_for(make_task, residual):
    model = make_task(depth=3, width=24, residual=residual, dropout=0.3).model
    assert len(model.blocks) == 3
    assert model.input_proj.weight.shape == (24, 64)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
    name = type(model.blocks[0]).__name__.lower()
    assert name == residual.replace("_", "")


def test_a_thousand_layers_build_and_get_gradients(make_task):
    task = make_task(depth=1000)
    loss = task.loss(task.model, task.batch(0))
    loss.backward()
    assert loss.item() == pytest.approx(2.303, abs=0.1)
    first, last = (task.model.blocks[i].branch.out_proj.weight.grad.norm() for i in (0, -1))
    assert 0.1 < first / last < 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be at least 0 and below 1, got -0.1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        StableNetModelConfig(**settings)


@pytest.mark.slow
def test_the_default_run_reads_digits(tmp_path, console):
    recipe = find_recipe("stablenet")
    config = replace(recipe.default, run=replace(recipe.default.run, out=tmp_path / "run"))
    summary = train(recipe, config, console=console)
    assert (summary["stopped"], summary["skipped_steps"]) == ("finished", 0)
    assert summary["test_accuracy"] > 0.96
