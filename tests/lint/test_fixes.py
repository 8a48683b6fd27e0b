"""Repaired programs, run: they do what they were meant to do."""

import warnings

import pytest
import torch
from torch import nn

from trimtab.lint import fix_source

HEAD = """\
import torch
import torch.nn.functional as F
from torch import nn

torch.default_generator.manual_seed(0)
x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
loader = [(x[i : i + 2], y[i : i + 2]) for i in range(0, 8, 2)]
model = nn.Linear(4, 3)
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = [p.detach().clone() for p in model.parameters()]
"""


def repaired(body: str, *, expected: str) -> dict:
    """Repair a program, check that nothing is left to repair, and run it."""
    text = HEAD + body
    fixed, left = fix_source(text)
    assert left == []
    assert fixed == HEAD + expected
    space: dict = {}
    with torch.random.fork_rng(), warnings.catch_warnings():
        exec(compile(fixed, "fixed.py", "exec"), space)
    return space


def gradients(space: dict) -> list[torch.Tensor]:
    return [p.grad for p in space["model"].parameters()]


def moved(space: dict) -> list[torch.Tensor]:
    pairs = zip(space["before"], space["model"].parameters(), strict=True)
    return [(old - new.detach()) / 0.1 for old, new in pairs]


def full_batch_gradients(space: dict, size: int = 8) -> list[torch.Tensor]:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        for p, old in zip(model.parameters(), space["before"], strict=True):
            p.copy_(old)
    nn.functional.cross_entropy(model(space["x"][:size]), space["y"][:size]).backward()
    return [p.grad for p in model.parameters()]


def test_accumulation_gives_the_gradients_of_one_large_batch():
    space = repaired(
        "for i, (xb, yb) in enumerate(loader):\n"
        "    loss = loss_fn(model(xb), yb)\n"
        "    loss.backward()\n"
        "    if (i + 1) % 4 == 0:\n"
        "        optimizer.step()\n"
        "        optimizer.zero_grad()\n",
        expected="for i, (xb, yb) in enumerate(loader):\n"
        "    loss = loss_fn(model(xb), yb)\n"
        "    (loss / 4).backward()\n"
        "    if (i + 1) % 4 == 0:\n"
        "        optimizer.step()\n"
        "        optimizer.zero_grad()\n",
    )

    for got, wanted in zip(moved(space), full_batch_gradients(space), strict=True):
        torch.testing.assert_close(got, wanted)


def test_zero_grad_leaves_the_last_batch_s_gradients_alone():
    space = repaired(
        "for _ in range(3):\n"
        "    loss = loss_fn(model(x), y)\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "    last = [p.detach().clone() for p in model.parameters()]\n",
        expected="for _ in range(3):\n"
        "    loss = loss_fn(model(x), y)\n"
        "    optimizer.zero_grad()\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "    last = [p.detach().clone() for p in model.parameters()]\n",
    )

    now = loss_at(
        space, [p + 0.1 * g for p, g in zip(space["last"], gradients(space), strict=True)]
    )
    for got, wanted in zip(gradients(space), now, strict=True):
        torch.testing.assert_close(got, wanted)


def loss_at(space: dict, params: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradients of the loss at given parameters."""
    weight, bias = (p.clone().requires_grad_() for p in params)
    loss = nn.functional.cross_entropy(space["x"] @ weight.T + bias, space["y"])
    return list(torch.autograd.grad(loss, [weight, bias]))


def test_clipping_acts_on_unscaled_gradients():
    space = repaired(
        'scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)\n'
        "for _ in range(1):\n"
        "    optimizer.zero_grad()\n"
        "    loss = loss_fn(model(x), y)\n"
        "    scaler.scale(loss).backward()\n"
        "    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)\n"
        "    scaler.step(optimizer)\n"
        "    scaler.update()\n",
        expected='scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)\n'
        "for _ in range(1):\n"
        "    optimizer.zero_grad()\n"
        "    loss = loss_fn(model(x), y)\n"
        "    scaler.scale(loss).backward()\n"
        "    scaler.unscale_(optimizer)\n"
        "    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)\n"
        "    scaler.step(optimizer)\n"
        "    scaler.update()\n",
    )

    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in full_batch_gradients(space)]))
    step = torch.linalg.vector_norm(torch.cat([g.flatten() for g in moved(space)]))
    torch.testing.assert_close(space["norm"], norm)
    assert float(step) == pytest.approx(1e-3, rel=1e-3)


def test_scaled_backward_and_update_are_put_in():
    space = repaired(
        'scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)\n'
        "for _ in range(1):\n"
        "    optimizer.zero_grad()\n"
        "    loss = loss_fn(model(x), y)\n"
        "    loss.backward()\n"
        "    scaler.step(optimizer)\n"
        "    scaler.update()\n",
        expected='scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)\n'
        "for _ in range(1):\n"
        "    optimizer.zero_grad()\n"
        "    loss = loss_fn(model(x), y)\n"
        "    scaler.scale(loss).backward()\n"
        "    scaler.step(optimizer)\n"
        "    scaler.update()\n",
    )

    for got, wanted in zip(moved(space), full_batch_gradients(space), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (
            ["loss.backward()", "optimizer.zero_grad()", "optimizer.step()"],
            ["optimizer.zero_grad()", "loss.backward()", "optimizer.step()"],
        ),
        (
            ["optimizer.zero_grad()", "optimizer.step()", "loss.backward()"],
            ["optimizer.zero_grad()", "loss.backward()", "optimizer.step()"],
        ),
        (
            ["optimizer.zero_grad()", "loss.backward()", "optimizer.step"],
            ["optimizer.zero_grad()", "loss.backward()", "optimizer.step()"],
        ),
        (
            ["optimizer.zero_grad", "loss.backward()", "optimizer.step()"],
            ["optimizer.zero_grad()", "loss.backward()", "optimizer.step()"],
        ),
        (
            ["optimizer.zero_grad()", "loss.backward()"],
            ["optimizer.zero_grad()", "loss.backward()", "optimizer.step()"],
        ),
    ],
)
def test_a_repaired_order_takes_the_true_step(order, expected):
    start = "for _ in range(1):\n    loss = loss_fn(model(x), y)\n"

    def body(lines):
        return start + "".join(f"    {line}\n" for line in lines)

    space = repaired(body(order), expected=body(expected))

    for got, wanted in zip(moved(space), full_batch_gradients(space), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("F.cross_entropy(F.softmax(model(x), dim=1), y)", "F.cross_entropy(model(x), y)"),
        ("loss_fn(model(x).softmax(dim=1), y)", "loss_fn(model(x), y)"),
        ("loss_fn(y, model(x))", "loss_fn(model(x), y)"),
        ("nn.CrossEntropyLoss(model(x), y)", "nn.CrossEntropyLoss()(model(x), y)"),
    ],
)
def test_a_repaired_loss_is_that_of_the_logits(loss, expected):
    program = (
        "for x, y in [(x, y)]:\n"
        "    optimizer.zero_grad()\n"
        "    loss = {}\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
    )

    space = repaired(program.format(loss), expected=program.format(expected))

    for got, wanted in zip(moved(space), full_batch_gradients(space), strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_schedule_moves_after_the_step():
    space = repaired(
        "schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)\n"
        "rates = []\n"
        "for epoch in range(3):\n"
        "    optimizer.zero_grad()\n"
        "    loss_fn(model(x), y).backward()\n"
        "    schedule.step()\n"
        '    rates.append(optimizer.param_groups[0]["lr"])\n'
        "    optimizer.step()\n",
        expected="schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)\n"
        "rates = []\n"
        "for epoch in range(3):\n"
        "    optimizer.zero_grad()\n"
        "    loss_fn(model(x), y).backward()\n"
        '    rates.append(optimizer.param_groups[0]["lr"])\n'
        "    optimizer.step()\n"
        "    schedule.step()\n",
    )

    assert space["rates"] == [0.1, 0.05, 0.025]


def test_a_list_of_layers_becomes_parameters():
    space = repaired(
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = [nn.Linear(4, 4) for _ in range(2)]\n"
        '        self.heads = {"a": nn.Linear(4, 1)}\n'
        "        self.more = []\n"
        "        self.more.append(nn.Linear(4, 4))\n"
        "num = len(list(Net().parameters()))\n",
        expected="class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])\n"
        '        self.heads = nn.ModuleDict({"a": nn.Linear(4, 1)})\n'
        "        self.more = nn.ModuleList()\n"
        "        self.more.append(nn.Linear(4, 4))\n"
        "num = len(list(Net().parameters()))\n",
    )

    assert space["num"] == 8


def test_functional_dropout_obeys_the_mode():
    space = repaired(
        "class Net(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return F.dropout(x, p=0.5)\n"
        "net = Net().eval()\n"
        "same = torch.equal(net(x), x)\n"
        "differs = not torch.equal(net.train()(x), x)\n",
        expected="class Net(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return F.dropout(x, p=0.5, training=self.training)\n"
        "net = Net().eval()\n"
        "same = torch.equal(net(x), x)\n"
        "differs = not torch.equal(net.train()(x), x)\n",
    )

    assert space["same"]
    assert space["differs"]


def test_a_running_sum_has_no_graph():
    space = repaired(
        "total = 0.0\n"
        "for xb, yb in loader:\n"
        "    optimizer.zero_grad()\n"
        "    loss = loss_fn(model(xb), yb)\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "    total += loss * len(xb)\n",
        expected="total = 0.0\n"
        "for xb, yb in loader:\n"
        "    optimizer.zero_grad()\n"
        "    loss = loss_fn(model(xb), yb)\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "    total += loss.detach() * len(xb)\n",
    )

    assert not space["total"].requires_grad


def test_clipping_moves_between_backward_and_step():
    space = repaired(
        "for _ in range(1):\n"
        "    optimizer.zero_grad()\n"
        "    loss_fn(model(x), y).backward()\n"
        "    optimizer.step()\n"
        "    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)\n",
        expected="for _ in range(1):\n"
        "    optimizer.zero_grad()\n"
        "    loss_fn(model(x), y).backward()\n"
        "    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)\n"
        "    optimizer.step()\n",
    )

    step = torch.linalg.vector_norm(torch.cat([g.flatten() for g in moved(space)]))
    assert float(step) == pytest.approx(1e-3, rel=1e-3)


def test_the_sampler_is_told_the_epoch():
    text = """\
import torch
from torch.utils.data import DataLoader, DistributedSampler

sampler = DistributedSampler(range(8), num_replicas=1, rank=0)
seen = []
for epoch in range(2):
    seen.append(list(sampler))
    for x in DataLoader(range(8), sampler=sampler):
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()
"""

    fixed, left = fix_source(text)

    assert left == []
    start = fixed.index("sampler =")
    space: dict = {"DistributedSampler": torch.utils.data.DistributedSampler}
    exec(fixed[start : fixed.index("    for x in")], space)
    assert space["seen"][0] != space["seen"][1]
