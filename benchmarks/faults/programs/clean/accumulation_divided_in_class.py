# part: tune
# source: the usual accumulation
import torch
from torch import nn


class Trainer:
    def __init__(self, model, steps):
        self.model = model
        self.gradient_accumulation_steps = steps
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def train(self, loader):
        self.model.train()
        for step, (x, y) in enumerate(loader):
            loss = nn.functional.mse_loss(self.model(x), y)
            loss = loss / self.gradient_accumulation_steps
            loss.backward()
            if (step + 1) % self.gradient_accumulation_steps == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()


Trainer(nn.Linear(3, 1), 2).train([(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(4)])
