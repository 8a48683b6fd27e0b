"""Only what is not finite is flagged."""

import math

import torch

from trimtab.guard._nonfinite import Nonfinite
from trimtab.guard._policy import Limits


def test_the_largest_of_numbers_is_no_outlier():
    policy = Nonfinite()

    flags = [
        policy.judge(torch.tensor(loss), torch.tensor(norm)).item()
        for loss, norm in [(1.0, 1.0), (1e38, 1e38), (math.nan, 1.0), (1.0, math.inf)]
    ]

    assert flags == [0, 0, 1, 1]
    assert policy.limits() == Limits()
    assert policy.state_dict() == {}
