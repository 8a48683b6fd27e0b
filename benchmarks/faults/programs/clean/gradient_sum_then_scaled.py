# part: report
# source: accumulation by scaling the gradients
import torch
from torch import nn

model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
micro = [(torch.randn(4, 4), torch.randn(4, 1)) for _ in range(8)]
for step in range(2):
    optimizer.zero_grad()
    for x, y in micro[4 * step:4 * step + 4]:
        (nn.functional.mse_loss(model(x), y, reduction="sum") / 16).backward()
    optimizer.step()
