# part: tune
# source: pytorch/pytorch issue 38639
# expects: TT719
from torch import nn, optim
import torch


class Towers(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.towers = [nn.Sequential(nn.Linear(4, 8), nn.ReLU()) for _ in range(n)]
        self.head = nn.Linear(8 * n, 2)

    def forward(self, x):
        return self.head(torch.cat([t(x) for t in self.towers], dim=1))


model = Towers(3)
optimizer = optim.SGD(model.parameters(), lr=0.1)
loss = nn.CrossEntropyLoss()(model(torch.randn(8, 4)), torch.randint(0, 2, (8,)))
optimizer.zero_grad()
loss.backward()
optimizer.step()
