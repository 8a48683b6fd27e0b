# part: report
# source: eval and inference_mode in a helper, train in the loop
import torch
from torch import nn


@torch.inference_mode()
def evaluate(model, loader):
    model.eval()
    hits = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    model.train()
    return hits


def fit(model, loader, epochs=2):
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        print(evaluate(model, loader))


net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 3))
fit(net, [(torch.randn(8, 6), torch.randint(0, 3, (8,))) for _ in range(3)])
