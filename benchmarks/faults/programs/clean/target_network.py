# part: report
# source: a target network without gradients, updated softly
import copy

import torch
from torch import nn

online = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
target = copy.deepcopy(online)
optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
for step in range(5):
    s, a = torch.randn(8, 4), torch.randint(0, 2, (8, 1))
    r, s2 = torch.rand(8), torch.randn(8, 4)
    with torch.no_grad():
        goal = r + 0.99 * target(s2).max(1).values
    q = online(s).gather(1, a).squeeze(1)
    loss = nn.functional.smooth_l1_loss(q, goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for p, t in zip(online.parameters(), target.parameters()):
            t.lerp_(p, 0.01)
