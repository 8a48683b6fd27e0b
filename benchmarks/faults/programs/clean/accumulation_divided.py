# part: report
# source: the usual accumulation
import torch
from torch import nn

ACCUM = 4
model = nn.Linear(10, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = [(torch.randn(8, 10), torch.randint(0, 2, (8,))) for _ in range(16)]
optimizer.zero_grad()
for i, (x, y) in enumerate(loader):
    loss = nn.functional.cross_entropy(model(x), y) / ACCUM
    loss.backward()
    if (i + 1) % ACCUM == 0 or i + 1 == len(loader):
        optimizer.step()
        optimizer.zero_grad()
