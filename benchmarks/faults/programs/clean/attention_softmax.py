# part: report
# source: a softmax inside attention is no output
import math

import torch
from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        w = torch.softmax(self.q(x) @ self.k(x).mT / math.sqrt(x.shape[-1]), dim=-1)
        gate = torch.sigmoid(x)
        return self.head((w @ self.v(x) * gate).mean(1))


model = SelfAttention(8)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(3):
    optimizer.zero_grad()
    loss = nn.CrossEntropyLoss()(model(torch.randn(4, 6, 8)), torch.randint(0, 5, (4,)))
    loss.backward()
    optimizer.step()
