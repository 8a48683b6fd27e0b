# part: tune
# source: transfer-learning tutorial: the head first, then the optimizer
import torch
from torch import nn


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 24)
        self.fc = nn.Linear(24, 1000)

    def forward(self, x):
        return self.fc(torch.relu(self.body(x)))


model = Backbone()
for p in model.parameters():
    p.requires_grad = False
model.fc = nn.Linear(24, 2)
optimizer = torch.optim.SGD(model.fc.parameters(), lr=1e-2)
for _ in range(3):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(torch.randn(8, 12)), torch.randint(0, 2, (8,)))
    loss.backward()
    optimizer.step()
