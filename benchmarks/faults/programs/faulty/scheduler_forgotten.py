# part: report
# source: Islam et al., ESEC/FSE 2019: missing API call in the training loop
# expects: TT734
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR


def main(epochs=20):
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
    loader = [(torch.randn(8, 8), torch.randint(0, 2, (8,))) for _ in range(4)]
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


main()
