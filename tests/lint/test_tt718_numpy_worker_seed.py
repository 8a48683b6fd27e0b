"""Every worker of the DataLoader draws the same random numbers."""

import pytest

from trimtab.lint import NumpyWorkerSeed, lint_source

BAD = {
    "global": ("flat", [("0.1 * torch.randn(self.x[i].shape)", "0.1 * np.random.randn(64)")]),
    "generator": (
        "flat",
        [
            (
                "        self.x, self.y = x, y\n",
                "        self.x, self.y = x, y\n        self.rng = np.random.default_rng(0)\n",
            ),
            (
                "0.1 * torch.randn(self.x[i].shape)",
                "self.rng.normal()",
            ),
        ],
    ),
    "helper": (
        "flat",
        [
            (
                "    def __len__(self):",
                "    def noise(self):\n        return np.random.normal()\n\n    def __len__(self):",
            ),
            (
                "0.1 * torch.randn(self.x[i].shape)",
                "self.noise()",
            ),
        ],
    ),
    "legacy": (
        "flat",
        [
            (
                "        self.x, self.y = x, y\n",
                "        self.x, self.y = x, y\n        self.random = np.random.RandomState(7)\n",
            ),
            (
                "0.1 * torch.randn(self.x[i].shape)",
                "self.random.randn()",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "worker_init_fn": (
        "flat",
        [
            (
                "0.1 * torch.randn(self.x[i].shape)",
                "0.1 * np.random.randn(64)",
            ),
            (
                "shuffle=True, num_workers=4",
                "shuffle=True, num_workers=4, worker_init_fn=seed_worker",
            ),
        ],
    ),
    "no workers": (
        "flat",
        [
            ("0.1 * torch.randn(self.x[i].shape)", "0.1 * np.random.randn(64)"),
            (", num_workers=4", ""),
        ],
    ),
    "drawn once": (
        "flat",
        [
            (
                "        self.x, self.y = x, y\n",
                "        self.x, self.y = x, y\n"
                "        self.order = np.random.permutation(len(x))\n",
            ),
        ],
    ),
    "not a dataset": (
        "flat",
        [
            (
                "EPOCHS = 20",
                "class Sampler:\n"
                "    def __getitem__(self, i):\n"
                "        return np.random.randn()\n"
                "\n"
                "\n"
                "EPOCHS = 20",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT718"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(NumpyWorkerSeed.example, "loop.py")

    assert found == NumpyWorkerSeed().finding(
        what="Noisy draws from a generator that every worker process has a copy of",
        cause="all workers draw the same random numbers, and begin anew with them in every epoch",
        fix="draw from torch, or seed the generator in a worker_init_fn from torch.initial_seed()",
        site="Noisy.__getitem__",
        file="loop.py",
        line=13,
        column=35,
    )
