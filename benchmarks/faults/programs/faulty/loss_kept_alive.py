# part: tune
# source: PyTorch FAQ: do not accumulate history across the training loop
# expects: TT709
import torch
from torch import nn

model = nn.Linear(10, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
criterion = nn.MSELoss()
loader = [(torch.randn(8, 10), torch.randn(8, 1)) for _ in range(10)]

for epoch in range(3):
    total_loss = 0
    for x, y in loader:
        optimizer.zero_grad()
        output = model(x)
        loss = criterion(output, y)
        loss.backward()
        optimizer.step()
        total_loss += loss
    print(f"epoch {epoch}: {total_loss / len(loader)}")
