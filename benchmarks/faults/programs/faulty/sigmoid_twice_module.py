# part: tune
# source: yudi-mars/daisyRec pull request 15; cvg/glue-factory issue 89
# expects: TT708
import torch
from torch import nn


class Recommender(nn.Module):
    def __init__(self, users=50, items=80, dim=8):
        super().__init__()
        self.users = nn.Embedding(users, dim)
        self.items = nn.Embedding(items, dim)

    def forward(self, u, i):
        score = (self.users(u) * self.items(i)).sum(-1)
        return torch.sigmoid(score)


model = Recommender()
loss_fn = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(10):
    u, i = torch.randint(0, 50, (16,)), torch.randint(0, 80, (16,))
    label = torch.randint(0, 2, (16,)).float()
    optimizer.zero_grad()
    loss = loss_fn(model(u, i), label)
    loss.backward()
    optimizer.step()
