# part: tune
# source: PyTorch's UserWarning since 1.1; reid-strong-baseline issue 190
# expects: TT702
import torch
import torch.nn as nn
from torch.optim.lr_scheduler import StepLR

model = nn.Linear(10, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = StepLR(optimizer, step_size=30, gamma=0.1)
train_loader = [(torch.randn(8, 10), torch.randint(0, 2, (8,))) for _ in range(4)]

for epoch in range(90):
    scheduler.step()
    for inputs, labels in train_loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
