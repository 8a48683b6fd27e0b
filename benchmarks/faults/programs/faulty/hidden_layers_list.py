# part: report
# source: pytorch/pytorch issues 666, 715, 1053 and 59925
# expects: TT719
import torch
import torch.nn as nn


class DeepNet(nn.Module):
    def __init__(self, depth=4, width=32):
        super(DeepNet, self).__init__()
        self.inp = nn.Linear(8, width)
        self.hidden = []
        for _ in range(depth):
            self.hidden.append(nn.Linear(width, width))
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        x = torch.relu(self.inp(x))
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.out(x)


net = DeepNet()
opt = torch.optim.Adam(net.parameters())
for _ in range(10):
    opt.zero_grad()
    loss = net(torch.randn(16, 8)).square().mean()
    loss.backward()
    opt.step()
