# part: report
# source: mmcdermott/MEDS_EIC_AR issue 30; lit-llama issue 254
# expects: TT716
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


model = nn.Sequential(Block(32), Block(32), nn.LayerNorm(32), nn.Linear(32, 32))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, betas=(0.9, 0.95))
for step in range(10):
    x = torch.randn(4, 32)
    loss = (model(x) - x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
