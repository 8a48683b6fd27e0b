# part: report
# source: Micikevicius et al. 2018; PyTorch AMP recipe
# expects: TT705
import torch
import torch.nn.functional as F
from torch.cuda.amp import autocast, GradScaler


def train_one_epoch(net, loader, optimizer, scaler):
    for images, targets in loader:
        images, targets = images.cuda(), targets.cuda()
        optimizer.zero_grad()
        with autocast():
            loss = F.cross_entropy(net(images), targets)
        loss.backward()
        scaler.step(optimizer)
        scaler.update()


if __name__ == "__main__":
    net = torch.nn.Linear(4, 2).cuda()
    train_one_epoch(net, [], torch.optim.SGD(net.parameters(), lr=0.1), GradScaler())
