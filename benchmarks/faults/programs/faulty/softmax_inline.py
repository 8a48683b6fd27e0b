# part: report
# source: UMLAUT (Schoop et al., CHI 2021): softmax and cross-entropy
# expects: TT707
import torch
from torch.nn import functional as F

model = torch.nn.Linear(16, 4)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(20):
    inputs = torch.randn(32, 16)
    labels = torch.randint(0, 4, (32,))
    logits = model(inputs)
    probs = torch.softmax(logits, dim=1)
    loss = F.cross_entropy(probs, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
