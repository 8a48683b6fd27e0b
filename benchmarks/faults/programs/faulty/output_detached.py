# part: report
# source: Humbatova et al., ICSE 2020: gradient stopped by mistake
# expects: TT722
import torch
from torch import nn


def train_epoch(model, loader, optimizer, criterion):
    for inputs, targets in loader:
        outputs = model(inputs).detach()
        loss = criterion(outputs, targets)
        loss.requires_grad_()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


model = nn.Linear(5, 2)
train_epoch(
    model,
    [(torch.randn(4, 5), torch.randint(0, 2, (4,)))],
    torch.optim.SGD(model.parameters(), lr=0.1),
    nn.CrossEntropyLoss(),
)
