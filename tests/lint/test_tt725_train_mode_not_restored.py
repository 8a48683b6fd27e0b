"""The network is put into evaluation mode in the training loop and never back."""

import pytest

from trimtab.lint import TrainModeNotRestored, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "    model.train()\n",
                "",
            ),
        ],
    ),
    "trainer": (
        "trainer",
        [
            (
                "        self.model.train()\n",
                "",
            ),
        ],
    ),
    "flat": (
        "flat",
        [
            (
                "    net.train()\n",
                "",
            ),
            (
                "amp_scaler = GradScaler()\n",
                "amp_scaler = GradScaler()\nnet.train()\n",
            ),
        ],
    ),
    "binary": (
        "binary",
        [
            (
                "    model_0.train()\n",
                "",
            ),
        ],
    ),
    "distributed": (
        "distributed",
        [
            (
                "    ddp_model.train()\n",
                "",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "before each epoch": (
        "binary",
        [
            (
                "    model_0.train()\n",
                "    model_0.train(True)\n",
            ),
        ],
    ),
    "after evaluation": (
        "script",
        [
            (
                "    model.train()\n",
                "",
            ),
            (
                "    print(test_loss",
                "    model.train()\n    print(test_loss",
            ),
        ],
    ),
    "a teacher": (
        "binary",
        [
            (
                "    y_logits =",
                "    teacher.eval()\n    y_logits =",
            ),
        ],
    ),
    "no layers that differ": (
        "binary",
        [
            (
                "    model_0.train()\n",
                "",
            ),
            (
                "        self.dropout = nn.Dropout(p=0.2)\n",
                "",
            ),
            (
                "self.dropout(self.relu(self.layer_2(x)))",
                "self.relu(self.layer_2(x))",
            ),
        ],
    ),
    "once after training": (
        "flat",
        [
            (
                "    net.train()\n",
                "",
            ),
            (
                "amp_scaler = GradScaler()\n",
                "amp_scaler = GradScaler()\nnet.train()\n",
            ),
            (
                "    net.eval()\n"
                "    hits = 0\n"
                "    with torch.inference_mode():\n"
                "        for xb, yb in valid_dl:\n"
                "            pred = net(xb.to(device)).softmax(dim=1)\n"
                "            hits += (pred.argmax(1).cpu() == yb).sum().item()\n"
                "    print(epoch, hits / len(valid_dl.dataset), np.mean([l.item() for "
                "l in losses]))\n",
                "net.eval()\n"
                "with torch.inference_mode():\n"
                "    print(net(x_valid.to(device)).softmax(dim=1))\n",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT725"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(TrainModeNotRestored.example, "loop.py")

    assert found == TrainModeNotRestored().finding(
        what="after model.eval() in the training loop, model.train() is never called again",
        cause=(
            "from the second epoch on the network trains in evaluation mode: dropout is off, "
            "and BatchNorm uses frozen statistics"
        ),
        fix="call model.train() at the start of each epoch",
        site="",
        file="loop.py",
        line=11,
        column=5,
    )
