# part: tune
# source: Karpathy 2018, most common neural net mistakes, number 3
# expects: TT704
import torch
import torch.nn as nn

x = torch.randn(256, 20)
y = torch.randint(0, 3, (256,))
net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

for epoch in range(3):
    for i in range(0, 256, 32):
        out = net(x[i:i + 32])
        loss = criterion(out, y[i:i + 32])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
