# part: report
# source: layers in a ModuleList, names in a list
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        layers = []
        for _ in range(depth):
            layers.append(nn.Linear(8, 8))
        self.layers = nn.ModuleList(layers)
        self.names = [f"layer{i}" for i in range(depth)]
        self.sizes = [8, 8]

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


net = Net(3)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
opt.zero_grad()
net(torch.randn(2, 8)).sum().backward()
opt.step()
