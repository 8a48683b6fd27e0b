"""The schedule counts steps and moves once an epoch, or counts epochs and moves every step."""

import pytest

from trimtab.lint import ScheduleCadence, lint_source

BAD = {
    "one cycle per epoch": (
        "flat",
        [
            (
                "            sched.step()\n",
                "",
            ),
            (
                "    net.eval()\n",
                "    sched.step()\n    net.eval()\n",
            ),
        ],
    ),
    "lambda of steps per epoch": (
        "trainer",
        [
            (
                "                self.scheduler.step()\n",
                "",
            ),
            (
                "            perplexity = self.validate()\n",
                "            perplexity = self.validate()\n            self.scheduler.step()\n",
            ),
            (
                "        self.scheduler = LambdaLR(self.optimizer, lambda step: 1 - "
                "step / total_steps)\n",
                "        self.scheduler = "
                "torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=total_steps)\n",
            ),
            (
                "from torch.optim.lr_scheduler import LambdaLR\n",
                "",
            ),
        ],
    ),
    "warmup per epoch": (
        "script",
        [
            (
                "from torch.optim.lr_scheduler import StepLR",
                "from transformers import get_cosine_schedule_with_warmup",
            ),
            (
                "    scheduler = StepLR(optimizer, step_size=1, gamma=0.7)\n",
                "    num_steps = len(train_loader) * args.epochs\n"
                "    scheduler = get_cosine_schedule_with_warmup(optimizer, 100, num_steps)\n",
            ),
        ],
    ),
    "milestones per batch": (
        "distributed",
        [
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "def train_one_epoch(ddp_model, loader, criterion, optimizer, rank):",
                "def train_one_epoch(ddp_model, loader, criterion, optimizer, scheduler, rank):",
            ),
            (
                "        optimizer.step()\n",
                "        optimizer.step()\n        scheduler.step()\n",
            ),
            (
                "criterion, optimizer, rank)\n        if",
                "criterion, optimizer, scheduler, rank)\n        if",
            ),
        ],
    ),
    "cosine of epochs per batch": (
        "flat",
        [
            (
                "sched = torch.optim.lr_scheduler.OneCycleLR(\n"
                "    opt, max_lr=1e-2, steps_per_epoch=len(train_dl) // ACCUM, epochs=EPOCHS\n"
                ")",
                "sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=EPOCHS)",
            ),
        ],
    ),
    "plateau per batch": (
        "script",
        [
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "StepLR(optimizer, step_size=1, gamma=0.7)",
                "ReduceLROnPlateau(optimizer)",
            ),
            (
                "import StepLR",
                "import ReduceLROnPlateau",
            ),
            (
                "        optimizer.step()\n",
                "        optimizer.step()\n        scheduler.step(loss)\n",
            ),
            (
                "train_loader, optimizer, epoch):",
                "train_loader, optimizer, scheduler, epoch):",
            ),
            (
                "train_loader, optimizer, epoch)\n",
                "train_loader, optimizer, scheduler, epoch)\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "one cycle of epochs": (
        "script",
        [
            (
                "StepLR(optimizer, step_size=1, gamma=0.7)",
                "OneCycleLR(optimizer, 1.0, epochs=args.epochs, steps_per_epoch=1)",
            ),
            (
                "import StepLR",
                "import OneCycleLR",
            ),
        ],
    ),
    "steps of thousands": (
        "flat",
        [
            (
                "torch.optim.lr_scheduler.OneCycleLR(\n"
                "    opt, max_lr=1e-2, steps_per_epoch=len(train_dl) // ACCUM, epochs=EPOCHS\n"
                ")",
                "torch.optim.lr_scheduler.StepLR(opt, step_size=10_000, gamma=0.5)",
            ),
        ],
    ),
    "warm restarts with a fraction": """\
import torch

scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10)
iters = len(loader)
for epoch in range(100):
    for i, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        scheduler.step(epoch + i / iters)
""",
    "every hundredth step": """\
import torch

scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
for epoch in range(90):
    for i, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        if i % 1000 == 0:
            scheduler.step()
""",
    "cosine of all iterations": """\
import torch

iter_per_epoch = num_samples // batch_size
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * iter_per_epoch)
for epoch in range(epochs):
    for _ in range(iter_per_epoch):
        optimizer.zero_grad()
        sample_loss(model).backward()
        optimizer.step()
        scheduler.step()
""",
    "full batches": """\
import torch

scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
for epoch in range(200):
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
    scheduler.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT703"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(ScheduleCadence.example, "loop.py")

    assert found == ScheduleCadence().finding(
        what=(
            "the schedule OneCycleLR is built for steps, and scheduler.step() is called once "
            "an epoch"
        ),
        cause=(
            "the learning rate covers only the first few values of its schedule, so it stays "
            "in the warm-up or never decays"
        ),
        fix="call scheduler.step() right after optimizer.step(), inside the loop over batches",
        site="",
        file="loop.py",
        line=10,
        column=5,
    )
