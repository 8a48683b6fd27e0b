import torch
from torch import nn

from trimtab.repair._flow import flow_of, followers

SAMPLE = [(torch.ones(2, 4), None)]


def test_what_is_given_the_output_of_what():
    model = nn.Sequential(
        nn.Linear(4, 3), nn.Dropout(0.5), nn.Identity(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)
    )
    flow = flow_of(model, SAMPLE)
    assert list(followers(flow, dict(model.named_modules()))) == [("0", "3"), ("4", "5")]
    assert flow.shapes["5"] == (2, 3)
    assert flow.calls == dict.fromkeys("012345", 1)
    assert all(not m._forward_hooks for m in model.modules())


def test_a_sum_is_no_output_of_a_layer():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(x) + x)

    model = Residual()
    assert list(followers(flow_of(model, SAMPLE), dict(model.named_modules()))) == []
