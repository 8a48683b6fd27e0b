"""A tensor is changed through `.data` during training, where autograd cannot see it."""

import pytest

from trimtab.lint import DataWrite, lint_source

BAD = {
    "forward": (
        "binary",
        [
            (
                "        return self.layer_3(x)",
                "        x = self.layer_3(x)\n        x.data.clamp_(-5, 5)\n        return x",
            ),
        ],
    ),
    "forward of a layer": (
        "binary",
        [
            (
                "        return self.layer_3(x)",
                "        self.layer_1.weight.data *= 0.99\n        return self.layer_3(x)",
            ),
        ],
    ),
    "between": (
        "script",
        [
            (
                "        loss.backward()",
                "        model.fc1.weight.data.clamp_(-1, 1)\n        loss.backward()",
            ),
        ],
    ),
    "loop": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "    optimizer.step()\n"
                "    for p in model_0.parameters():\n"
                "        p.data.mul_(0.999)\n",
            ),
        ],
    ),
    "assigned": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "    optimizer.step()\n"
                "    model_0.layer_1.weight.data = model_0.layer_1.weight.data.clamp(-1, 1)\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "initialisation": (
        "script",
        [
            (
                "        self.fc2 = nn.Linear(128, 10)\n",
                "        self.fc2 = nn.Linear(128, 10)\n"
                "        self.fc2.weight.data.normal_(0, 0.02)\n"
                "        self.fc2.bias.data.zero_()\n",
            ),
        ],
    ),
    "moving average": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "    optimizer.step()\n"
                "    for p, ema_p in zip(model_0.parameters(), ema_model.parameters()):\n"
                "        ema_p.data.mul_(0.99).add_(p.data, alpha=0.01)\n",
            ),
        ],
    ),
    "normalised before use": (
        "binary",
        [
            (
                "        x = self.relu(self.layer_1(x))",
                "        self.layer_1.weight.data /= self.layer_1.weight.data.norm()\n"
                "        x = self.relu(self.layer_1(x))",
            ),
        ],
    ),
    "under no_grad": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "    optimizer.step()\n"
                "    with torch.no_grad():\n"
                "        model_0.layer_1.weight.data.clamp_(-1, 1)\n",
            ),
        ],
    ),
    "gradients": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "    for p in model_0.parameters():\n"
                "        p.grad.data.mul_(0.5)\n"
                "    optimizer.step()\n",
            ),
        ],
    ),
    "a fresh tensor": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n",
                "    noise = X_train.clone().data.normal_(0, 0.1)\n    optimizer.zero_grad()\n",
            ),
        ],
    ),
    "own attribute called data": (
        "flat",
        [
            (
                "        self.x, self.y = x, y\n",
                "        self.x, self.y = x, y\n        self.data = list(x)\n",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT717"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(DataWrite.example, "loop.py")

    assert found == DataWrite().finding(
        what="a write to model.weight.data stands between the forward pass and backward()",
        cause=(
            "autograd does not see it, so backward() uses the changed values as if they were "
            "those of the forward pass: the gradients are wrong, without an error"
        ),
        fix="change the tensor after backward(), within `with torch.no_grad():`",
        site="",
        file="loop.py",
        line=6,
        column=5,
    )
