# part: report
# source: victorchall/EveryDream2trainer pull request 175
# expects: TT701
import torch
from torch.cuda.amp import GradScaler, autocast
from torch.nn.utils import clip_grad_norm_


class AmpTrainer:
    def __init__(self, model, optimizer, max_grad_norm=1.0):
        self.model, self.optimizer = model, optimizer
        self.scaler = GradScaler()
        self.max_grad_norm = max_grad_norm

    def training_step(self, batch):
        self.optimizer.zero_grad()
        with autocast():
            loss = self.model(batch).pow(2).mean()
        self.scaler.scale(loss).backward()
        if self.max_grad_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()


def main():
    model = torch.nn.Linear(16, 16)
    trainer = AmpTrainer(model, torch.optim.AdamW(model.parameters(), lr=1e-4))
    for _ in range(3):
        trainer.training_step(torch.randn(4, 16))


if __name__ == "__main__":
    main()
