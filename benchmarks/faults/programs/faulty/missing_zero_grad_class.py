# part: report
# source: StackOverflow 60335387 (in TrainCheck, OSDI 2025)
# expects: TT704
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self, model, lr=1e-3):
        self.model = model
        self.opt = optim.Adam(self.model.parameters(), lr=lr)
        self.loss_fn = nn.MSELoss()

    def fit(self, loader, epochs):
        self.model.train()
        for _ in range(epochs):
            running = 0.0
            for xb, yb in loader:
                loss = self.loss_fn(self.model(xb), yb)
                loss.backward()
                self.opt.step()
                running += loss.item()
            print(running / len(loader))


if __name__ == "__main__":
    data = TensorDataset(torch.randn(128, 4), torch.randn(128, 1))
    Trainer(nn.Linear(4, 1)).fit(DataLoader(data, batch_size=16, shuffle=True), 2)
