# part: tune
# source: pytorch/pytorch issue 14467; microsoft/nni issue 4521
# expects: TT713
import torch
from torch import nn


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Linear(12, 24)
        self.fc = nn.Linear(24, 1000)

    def forward(self, x):
        return self.fc(torch.relu(self.features(x)))


model = Backbone()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
model.fc = nn.Linear(24, 2)

for _ in range(5):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(torch.randn(8, 12)), torch.randint(0, 2, (8,)))
    loss.backward()
    optimizer.step()
