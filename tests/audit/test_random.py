import random

import numpy as np
import torch

from trimtab.audit._random import random_fingerprints


def test_each_state_has_a_fingerprint_of_its_own():
    before = random_fingerprints()
    assert random_fingerprints() == before
    draws = {"torch": lambda: torch.rand(1), "NumPy": np.random.rand, "Python": random.random}

    for name, draw in draws.items():
        draw()
        after = random_fingerprints()
        assert {k for k in after if after[k] != before[k]} == {name}
        before = after
