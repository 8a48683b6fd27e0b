# part: tune
# source: an average that reads values only
import torch
from torch import nn
from tqdm import tqdm


class AverageMeter:
    def __init__(self):
        self.sum, self.count = 0.0, 0

    def update(self, value, n=1):
        self.sum += value * n
        self.count += n

    @property
    def avg(self):
        return self.sum / max(1, self.count)


def train_epoch(model, loader, optimizer, criterion):
    meter = AverageMeter()
    model.train()
    bar = tqdm(loader, leave=False)
    for batch in bar:
        inputs, labels = (t.to("cpu") for t in batch)
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        meter.update(loss.item(), inputs.size(0))
        bar.set_postfix(loss=meter.avg)
    return meter.avg


model = nn.Linear(4, 3)
print(train_epoch(model, [(torch.randn(2, 4), torch.randint(0, 3, (2,)))], torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss()))
