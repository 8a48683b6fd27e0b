# part: tune
# source: Islam et al., ESEC/FSE 2019: wrong order of API calls
# expects: TT724
import torch
import torch.nn.functional as F

def train(model, loader, optimizer, device="cpu"):
    model.train()
    for data, target in loader:
        data, target = data.to(device), target.to(device)
        loss = F.cross_entropy(model(data), target)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()

model = torch.nn.Linear(20, 3)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
loader = [(torch.randn(8, 20), torch.randint(0, 3, (8,))) for _ in range(4)]
for epoch in range(2):
    train(model, loader, opt)
