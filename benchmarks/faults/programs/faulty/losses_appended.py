# part: report
# source: PyTorch FAQ: do not accumulate history across the training loop
# expects: TT709
import torch
from torch import nn


def fit(model, loader, steps):
    opt = torch.optim.Adam(model.parameters())
    history = []
    for x, y in loader:
        opt.zero_grad()
        loss = nn.functional.l1_loss(model(x), y)
        loss.backward()
        opt.step()
        history.append(loss)
    return history


losses = fit(nn.Linear(3, 1), [(torch.randn(4, 3), torch.randn(4, 1))] * 5, 5)
print(sum(losses) / len(losses))
