# part: tune
# source: PyTorch manual of NLLLoss: it expects log-probabilities
# expects: TT728 TT707
import torch
from torch import nn

model = nn.Sequential(nn.Linear(10, 5), nn.Softmax(dim=1))
criterion = nn.NLLLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(10):
    optimizer.zero_grad()
    loss = criterion(model(torch.randn(8, 10)), torch.randint(0, 5, (8,)))
    loss.backward()
    optimizer.step()
