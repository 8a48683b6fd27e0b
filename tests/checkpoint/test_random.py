import torch

from trimtab.checkpoint import random_state, restore_random_state


def test_the_same_numbers_follow():
    with torch.random.fork_rng():
        state = random_state()
        first = torch.rand(3)
        restore_random_state(state)
        torch.testing.assert_close(torch.rand(3), first, rtol=0, atol=0)
