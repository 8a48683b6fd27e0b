# part: tune
# source: Islam et al., ESEC/FSE 2019: the loss is cut from the graph
# expects: TT722
import torch
from torch import nn

model = nn.Linear(6, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(10):
    pred = model(torch.randn(16, 6))
    mse = nn.functional.mse_loss(pred, torch.randn(16, 1)).item()
    loss = torch.tensor(mse, requires_grad=True)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
