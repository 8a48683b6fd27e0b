# part: tune
# source: softmax beside the loss, for a metric and at inference only
import torch
from torch import nn
from torch.nn import functional as F


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(10, 4)

    def forward(self, x):
        return self.net(x)

    @torch.no_grad()
    def predict(self, x):
        return F.softmax(self(x), dim=-1)


model = Classifier()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters())
for _ in range(3):
    x, y = torch.randn(8, 10), torch.randint(0, 4, (8,))
    logits = model(x)
    loss = criterion(logits, y)
    confidence = logits.softmax(1).max(1).values.mean().item()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(model.predict(torch.randn(2, 10)), confidence)
