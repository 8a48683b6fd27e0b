# part: report
# source: PyTorch AMP recipe: update() at the end of each iteration
# expects: TT727 TT705
import torch
from torch import nn

model = nn.Linear(16, 4).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cuda")
for step in range(1000):
    x = torch.randn(32, 16, device="cuda")
    y = torch.randint(0, 4, (32,), device="cuda")
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = nn.functional.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
