# part: report
# source: Islam et al., ESEC/FSE 2019: wrong order of API calls
# expects: TT724
import torch
from torch import nn


class Learner:
    def __init__(self):
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=3e-4)

    def update(self, states, returns):
        values = self.net(states).squeeze(-1)
        loss = nn.functional.smooth_l1_loss(values, returns)
        loss.backward()
        self.net.zero_grad()
        self.optimizer.step()
        return loss.item()


learner = Learner()
for _ in range(3):
    print(learner.update(torch.randn(32, 8), torch.randn(32)))
