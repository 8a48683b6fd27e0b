# part: tune
# source: Islam et al., ESEC/FSE 2019: missing API call
# expects: TT723
import torch
from torch import nn

net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
for step in range(100):
    x = torch.rand(32, 3)
    loss = nn.functional.mse_loss(net(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    optimizer.step()
