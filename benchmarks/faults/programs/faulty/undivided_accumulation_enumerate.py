# part: tune
# source: axolotl issue 2262: gradients grow with the accumulation steps
# expects: TT706
import torch
from torch import nn

accumulation_steps = 4
model = nn.Linear(10, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = [(torch.randn(8, 10), torch.randint(0, 2, (8,))) for _ in range(16)]

optimizer.zero_grad()
for i, (x, y) in enumerate(loader):
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    if (i + 1) % accumulation_steps == 0:
        optimizer.step()
        optimizer.zero_grad()
