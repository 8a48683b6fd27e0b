"""The loss is cut off from the network, so its backward pass reaches no parameter."""

import pytest

from trimtab.lint import CutLoss, lint_source

BAD = {
    "detach": (
        "script",
        [
            (
                "output = model(data)\n        loss",
                "output = model(data).detach()\n        loss",
            ),
        ],
    ),
    "data": (
        "distributed",
        [
            (
                "loss = criterion(outputs, labels)",
                "loss = criterion(outputs.data, labels)",
            ),
        ],
    ),
    "item": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n    loss.backward()",
                "    loss = torch.tensor(loss.item(), requires_grad=True)\n"
                "    optimizer.zero_grad()\n"
                "    loss.backward()",
            ),
        ],
    ),
    "no_grad": (
        "distributed",
        [
            (
                "        outputs = ddp_model(images)\n        loss",
                "        with torch.no_grad():\n"
                "            outputs = ddp_model(images)\n"
                "        loss",
            ),
        ],
    ),
    "argmax": (
        "binary",
        [
            (
                "loss = loss_fn(y_logits, y_train)",
                "loss = loss_fn(y_logits.argmax(dim=0).float(), y_train)",
            ),
        ],
    ),
    "a leaf whose gradient nobody reads": (
        "distributed",
        [
            (
                "outputs = ddp_model(images)\n        loss",
                "outputs = ddp_model(images).detach().requires_grad_()\n        loss",
            ),
        ],
    ),
    "requires_grad_ at once": (
        "distributed",
        [
            (
                "loss = criterion(outputs, labels)",
                "loss = criterion(outputs.detach(), labels).requires_grad_()",
            ),
        ],
    ),
    "requires_grad": (
        "steps",
        [
            (
                "    loss.backward()\n",
                "    loss.requires_grad = True\n    loss.backward()\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "target detached": """\
import torch
import torch.nn.functional as F

for state, action, reward, following in loader:
    q = policy_net(state).gather(1, action)
    with torch.no_grad():
        best = target_net(following).max(1)[0]
    loss = F.smooth_l1_loss(q, (reward + 0.99 * best).detach())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    "discriminator": """\
import torch

for real in loader:
    fake = netG(torch.randn(64, 100))
    optimizerD.zero_grad()
    loss_d = criterion(netD(real), ones) + criterion(netD(fake.detach()), zeros)
    loss_d.backward()
    optimizerD.step()
""",
    "weights for the loss": (
        "script",
        [
            (
                "loss = F.cross_entropy(output, target)\n        loss",
                "weights = output.detach().softmax(1).mean(0)\n"
                "        loss = F.cross_entropy(output, target, weight=weights)\n"
                "        loss",
            ),
        ],
    ),
    "frozen backbone": """\
import torch

for x, y in loader:
    with torch.no_grad():
        features = backbone(x)
    loss = loss_fn(head(features), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    "policy gradient": """\
import torch

for states, actions, rewards in loader:
    log_probs = policy(states).log_softmax(1).gather(1, actions)
    loss = -(log_probs * torch.tensor(rewards)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss.item())
""",
    "a new leaf": """\
import torch
import torch.nn.functional as F

for x, y in loader:
    reference = model(x).detach().requires_grad_()
    loss = F.cross_entropy(reference, y)
    loss.backward()
    compare(reference.grad)
    image = decode(x).detach()
    image.requires_grad_(True)
    loss = F.mse_loss(image, y)
    loss.backward()
    image = image - image.grad
""",
    "gradient of the input": """\
import torch

x = torch.rand(1, 3, 32, 32)
x.requires_grad_(True)
optimizer = torch.optim.Adam([x], lr=0.1)
for step in range(100):
    optimizer.zero_grad()
    loss = -model(x)[0, label]
    loss.backward()
    optimizer.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT722"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(CutLoss.example, "loop.py")

    assert found == CutLoss().finding(
        what="the loss that goes backward is cut off from the network: .detach()",
        cause=(
            "what it returns has no history, so backward() reaches no parameter and the "
            "network never changes"
        ),
        fix="compute the loss from the network's own output, and detach only what is logged",
        site="",
        file="loop.py",
        line=5,
        column=14,
    )
