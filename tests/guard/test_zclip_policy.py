"""ZClip's score as a reason to leave a step out: it flags what ZClip clips."""

import math

import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.guard._zclip_policy import ZClipPolicy
from trimtab.optim import ZClip

LOSS = torch.tensor(1.0)


def noisy(generator, number):
    return torch.exp(0.1 * torch.randn(number, generator=generator))


def test_flags_what_zclip_clips(generator):
    norms = noisy(generator, 300)
    norms[[60, 61, 120]] = torch.tensor([40.0, 3.0, 1.6])
    policy, clipper = ZClipPolicy(), ZClip()

    flags = [policy.judge(LOSS, norm).item() for norm in norms]

    assert flags == [float(clipper.coefficient(norm) < 1) for norm in norms]
    assert flags[60] == flags[61] == flags[120] == 1


def test_limits_are_those_of_the_paper(generator):
    norms = noisy(generator, 25)
    policy = ZClipPolicy(z_threshold=3.0)
    for norm in norms:
        policy.judge(LOSS, norm)

    limits = policy.limits()

    std = norms.double().std(correction=0).item()
    assert limits.norm_level == pytest.approx(norms.double().mean().item(), rel=1e-5)
    assert limits.norm == pytest.approx(limits.norm_level + 3 * std, rel=1e-5)
    assert limits.loss == math.inf


def test_a_loss_that_is_not_finite_keeps_the_norm_out(generator):
    policy = ZClipPolicy()
    for norm in noisy(generator, 30):
        policy.judge(LOSS, norm)
    before = policy.state_dict()

    flag = policy.judge(torch.tensor(math.nan), torch.tensor(1.0))

    assert flag.item() == 1
    torch.testing.assert_close(policy.state_dict(), before, rtol=0, atol=0)


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="z_threshold"):
        ZClipPolicy(z_threshold=-1)
