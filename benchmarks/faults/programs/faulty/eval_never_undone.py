# part: tune
# source: Karpathy 2018, most common neural net mistakes, number 2
# expects: TT725
import torch
from torch import nn

model = nn.Sequential(nn.Linear(10, 20), nn.Dropout(0.3), nn.ReLU(), nn.Linear(20, 2))
opt = torch.optim.Adam(model.parameters())
loss_fn = nn.CrossEntropyLoss()
train_data = [(torch.randn(8, 10), torch.randint(0, 2, (8,))) for _ in range(6)]
test_data = train_data[:2]

model.train()
for epoch in range(5):
    for x, y in train_data:
        opt.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        accuracy = sum((model(x).argmax(1) == y).float().mean().item() for x, y in test_data)
    print(epoch, accuracy / len(test_data))
