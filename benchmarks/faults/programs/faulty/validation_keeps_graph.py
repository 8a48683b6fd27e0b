# part: report
# source: PyTorch FAQ; Humbatova et al., ICSE 2020
# expects: TT711
import torch
from torch import nn


def validate(model, loader, criterion):
    model.eval()
    losses = []
    for x, y in loader:
        losses.append(criterion(model(x), y).item())
    return sum(losses) / len(losses)


def main():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1))
    criterion = nn.MSELoss()
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    train = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(4)]
    for epoch in range(2):
        model.train()
        for x, y in train:
            opt.zero_grad()
            criterion(model(x), y).backward()
            opt.step()
        print(validate(model, train, criterion))


main()
