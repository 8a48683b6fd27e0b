# part: tune
# source: Karpathy 2018, most common neural net mistakes, number 2
# expects: TT710
import torch
from torch import nn

model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
train_loader = [(torch.randn(8, 10), torch.randint(0, 2, (8,))) for _ in range(5)]
val_loader = [(torch.randn(8, 10), torch.randint(0, 2, (8,))) for _ in range(2)]

for epoch in range(3):
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    correct = 0
    with torch.no_grad():
        for x, y in val_loader:
            correct += (model(x).argmax(1) == y).sum().item()
    print(epoch, correct)
