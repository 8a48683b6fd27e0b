# part: report
# source: itakurah/focal-loss-pytorch pull request 5
# expects: TT708
import torch
import torch.nn as nn
import torch.nn.functional as F

net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.SGD(net.parameters(), 0.05)
for it in range(50):
    x = torch.randn(64, 12)
    t = (x.sum(1, keepdim=True) > 0).float()
    p = net(x).sigmoid()
    loss = F.binary_cross_entropy_with_logits(p, t)
    opt.zero_grad()
    loss.backward()
    opt.step()
