# part: report
# source: unslothai/unsloth pull request 1146; the accumulation bug of 2024
# expects: TT706
import torch
from torch import nn


class Pretrainer:
    def __init__(self, model, grad_accum=8):
        self.model = model
        self.grad_accum = grad_accum
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)

    def train(self, batches):
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        for step, (tokens, labels) in enumerate(batches, start=1):
            logits = self.model(tokens)
            loss = nn.functional.cross_entropy(logits, labels)
            loss.backward()
            if step % self.grad_accum == 0:
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)


batches = [(torch.randn(4, 6), torch.randint(0, 3, (4,))) for _ in range(16)]
Pretrainer(nn.Linear(6, 3)).train(batches)
