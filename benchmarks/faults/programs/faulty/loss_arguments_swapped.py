# part: report
# source: Islam et al., ESEC/FSE 2019: wrong order of arguments
# expects: TT729
import torch
from torch import nn

model = nn.Linear(10, 5)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for inputs, labels in [(torch.randn(8, 10), torch.rand(8, 5)) for _ in range(4)]:
    optimizer.zero_grad()
    outputs = model(inputs)
    loss = criterion(labels, outputs)
    loss.backward()
    optimizer.step()
