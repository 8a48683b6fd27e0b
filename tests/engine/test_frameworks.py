"""The same `attach` in a plain loop, Lightning, Transformers and Accelerate, run for real."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from trimtab import Watch, attach

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEPS = 12
CLIP = 0.05
WATCH = Watch(parameters=4, modules=4, histograms=8)

G = torch.Generator().manual_seed(0)
X = torch.randn(STEPS * 4, 6, generator=G)
Y = X.sum(dim=1, keepdim=True).sin()


class Rows(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"x": X[index], "labels": Y[index]}


class Net(nn.Module):
    """Returns its loss, as the Transformers Trainer wants it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(inplace=True), nn.Linear(16, 1))
        g = torch.Generator().manual_seed(1)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=g) * 0.4

    def forward(self, x, labels=None):
        y = self.layers(x)
        return {"loss": nn.functional.mse_loss(y, labels), "logits": y}


def make_optimizer(model, fused=True):
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, fused=fused)


@pytest.fixture(params=["fused", "foreach"])
def fused(request):
    return request.param == "fused"


@pytest.fixture
def expected(fused):
    """Losses, norms and parameters of the loop written by hand with torch's clipping."""
    model = Net()
    optimizer = make_optimizer(model, fused)
    losses, norms = [], []
    for step in range(STEPS):
        rows = slice(step * 4, step * 4 + 4)
        optimizer.zero_grad()
        loss = model(X[rows], Y[rows])["loss"]
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        optimizer.step()
        losses.append(loss.item())
    return losses, norms, [p.detach() for p in model.parameters()]


def check(trim, model, expected):
    """Compare what was recorded, and the result, with the loop written by hand."""
    losses, norms, params = expected
    trim.sync()
    assert trim.steps == STEPS
    assert trim.skipped_steps == 0
    values = [r.values for r in trim.history]
    assert [v["loss"] for v in values] == pytest.approx(losses, rel=1e-3)
    assert [v["gradient.norm"] for v in values] == pytest.approx(norms, rel=1e-3)
    clipped = [min(1, CLIP / n) for n in norms]
    assert [v["gradient.clip_coefficient"] for v in values] == pytest.approx(clipped, rel=1e-3)
    assert min(clipped) < 0.5
    due = [r.step for r in trim.history if "modules" in r.tables]
    assert due == [1, 4, 8, 12]
    for record in trim.history:
        for table, (sites, columns) in record.tables.items():
            if table != "histograms":
                name = {"parameters": "update.ratio", "modules": "activation.rms"}[table]
                assert len(sites) >= 3
                # A LightningModule's own forward() is not what trains.
                seen = [
                    value
                    for site, value in zip(sites, columns[name], strict=True)
                    if site != "model"
                ]
                assert np.isfinite(seen).all(), sites
    torch.testing.assert_close(
        [p.detach() for p in model.parameters()], params, rtol=1e-3, atol=1e-5
    )
    trim.detach()
    assert not any(m._forward_hooks for m in model.modules() if isinstance(m, nn.Linear))


def test_plain_loop(expected, fused):
    model = Net()
    optimizer = make_optimizer(model, fused)
    trim = attach(model, optimizer, clip=CLIP, watch=WATCH, out=None)
    for batch in DataLoader(Rows(), batch_size=4):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
    check(trim, model, expected)


@pytest.mark.parametrize("where", ["configure_optimizers", "before fit"])
def test_lightning(expected, fused, where, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()
            self.optimizer = make_optimizer(self.net, fused)

        def training_step(self, batch):
            return self.net(**batch)["loss"]

        def validation_step(self, batch):
            return self.net(**batch)["loss"]

        def configure_optimizers(self):
            if where == "configure_optimizers":
                self.trim = attach(self, self.optimizer, clip=CLIP, watch=WATCH, out=None)
            return self.optimizer

    module = Module()
    if where == "before fit":
        module.trim = attach(module, module.optimizer, clip=CLIP, watch=WATCH, out=None)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        val_check_interval=4,
    )
    trainer.fit(module, DataLoader(Rows(), batch_size=4), DataLoader(Rows(), batch_size=4))
    assert (tmp_path / "checkpoints").exists()
    check(module.trim, module.net, expected)


@pytest.mark.parametrize("where", ["optimizers=", "on_train_begin"])
def test_transformers(expected, fused, where, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = Net()
    optimizer = make_optimizer(model, fused)
    trims = []

    class Attach(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            trims.append(attach(model, optimizer, clip=CLIP, watch=WATCH, out=None))

    if where == "optimizers=":
        trims.append(attach(model, optimizer, clip=CLIP, watch=WATCH, out=None))
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=4,
            num_train_epochs=1,
            max_grad_norm=0,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            train_sampling_strategy="sequential",
            save_strategy="steps",
            save_steps=6,
            eval_strategy="steps",
            eval_steps=5,
        ),
        train_dataset=Rows(),
        eval_dataset=Rows(),
        optimizers=(optimizer, schedule),
        callbacks=[Attach()] if where == "on_train_begin" else [],
    )
    trainer.train()
    check(trims[0], model, expected)


@pytest.mark.parametrize("when", ["before prepare", "after prepare"])
def test_accelerate(expected, fused, when):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = Net()
    optimizer = make_optimizer(model, fused)
    if when == "before prepare":
        trim = attach(model, optimizer, clip=CLIP, watch=WATCH, out=None)
    loader = DataLoader(Rows(), batch_size=4)
    prepared, wrapped, loader = accelerator.prepare(model, optimizer, loader)
    if when == "after prepare":
        trim = attach(prepared, wrapped, clip=CLIP, watch=WATCH, out=None)
    for batch in loader:
        with accelerator.accumulate(prepared):
            wrapped.zero_grad()
            accelerator.backward(prepared(**batch)["loss"])
            wrapped.step()
            assert not wrapped.step_was_skipped
    check(trim, model, expected)
    accelerator.free_memory()


@pytest.mark.parametrize("when", ["before", "after"])
def test_accelerate_still_sees_which_steps_overflowed(when, fused):
    """It holds the schedule then. Wrapped after attach(), it does from the second step on."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.Accelerator(cpu=True)
    model = Net()
    optimizer = make_optimizer(model, fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    if when == "before":
        trim = attach(model, optimizer, clip=CLIP, watch=WATCH, out=None)
    wrapped = accelerate.optimizer.AcceleratedOptimizer(optimizer, scaler=scaler)
    if when == "after":
        trim = attach(model, wrapped, clip=CLIP, watch=WATCH, out=None)
    skipped = []
    for step in range(4):
        wrapped.zero_grad()
        loss = model(X, Y)["loss"] * (torch.nan if step == 2 else 1)
        scaler.scale(loss).backward()
        wrapped.step()
        skipped.append(wrapped.step_was_skipped)
    # Accelerate itself does not see those that a fused optimizer leaves out.
    assert skipped == [False, False, not fused, False]
    assert all(p.isfinite().all() for p in model.parameters())
    assert trim.steps == (4 if fused else 3)
    trim.detach()


def test_lightning_with_its_own_clipping_and_accumulation(tmp_path):
    """Lightning clips first; attach measures what is left of the norm."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch):
            return self.net(**batch)["loss"]

        def configure_optimizers(self):
            optimizer = make_optimizer(self.net)
            self.trim = attach(self, optimizer, clip=None, watch=WATCH, out=None)
            return optimizer

    module = Module()
    lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        accumulate_grad_batches=3,
        gradient_clip_val=CLIP,
        enable_checkpointing=False,
    ).fit(module, DataLoader(Rows(), batch_size=4))
    assert module.trim.steps == STEPS // 3
    norms = [r.values["gradient.norm"] for r in module.trim.history]
    assert norms == pytest.approx([CLIP] * (STEPS // 3), rel=1e-3)
    module.trim.detach()


def test_no_framework_is_imported_by_attach():
    import subprocess
    import sys

    code = (
        "import sys, torch, trimtab; m = torch.nn.Linear(2, 1); "
        "trimtab.attach(m, torch.optim.SGD(m.parameters(), lr=0.1), out=None); "
        "print([n for n in ('lightning', 'transformers', 'accelerate') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_warnings_of_ours_are_not_lost():
    """The filter above is for the frameworks; attach itself gives no warning in health."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Net()
        optimizer = make_optimizer(model)
        with attach(model, optimizer, out=None):
            model(X, Y)["loss"].backward()
            optimizer.step()
