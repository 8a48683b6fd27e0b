# part: report
# source: yunlongdong/FCN-pytorch issue 7; NeuraLint: missing sigmoid
# expects: TT721
import torch
from torch import nn


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)))


model = Segmenter()
criterion = nn.BCELoss()
optimizer = torch.optim.Adam(model.parameters())
for _ in range(5):
    image, mask = torch.rand(2, 1, 8, 8), torch.randint(0, 2, (2, 1, 8, 8)).float()
    optimizer.zero_grad()
    loss = criterion(model(image), mask)
    loss.backward()
    optimizer.step()
