# part: tune
# source: cells of a notebook, one after the other
import torch, torch.nn as nn
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
net = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3)).to(device)
crit = nn.CrossEntropyLoss()
opt = torch.optim.RMSprop(net.parameters(), lr=1e-3)
X = torch.randn(150, 4).to(device); Y = torch.randint(0, 3, (150,)).to(device)
losses = []
for it in range(20):
    opt.zero_grad(); out = net(X); l = crit(out, Y); l.backward(); opt.step()
    losses.append(l.item())
print(losses[-1])
