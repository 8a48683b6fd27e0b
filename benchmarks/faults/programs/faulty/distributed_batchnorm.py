# part: tune
# source: PyTorch manual of SyncBatchNorm; Peng et al. 2018 (MegDet)
# expects: TT715
import os
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


def worker():
    dist.init_process_group("nccl")
    rank = int(os.environ["LOCAL_RANK"])
    model = nn.Sequential(nn.Conv2d(3, 16, 3), Block(16)).cuda(rank)
    model = DistributedDataParallel(model, device_ids=[rank])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 32, 32, device=rank)).mean().backward()
        optimizer.step()


worker()
