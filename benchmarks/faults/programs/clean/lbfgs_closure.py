# part: report
# source: PyTorch manual: a closure for LBFGS
import torch
from torch import nn

model = nn.Linear(3, 1)
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)
x, y = torch.randn(32, 3), torch.randn(32, 1)


def closure():
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    return loss


for i in range(5):
    loss = optimizer.step(closure)
    print(i, loss.item())
