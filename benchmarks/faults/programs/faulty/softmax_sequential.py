# part: report
# source: NeuraLint (Nikanjam et al., TOSEM 2021): last layer and loss
# expects: TT707
import torch
from torch import nn

def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, classes), nn.Softmax(dim=-1),
    )

def main():
    model = build(5)
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    loss_function = nn.CrossEntropyLoss()
    for step in range(10):
        images, labels = torch.randn(4, 3, 16, 16), torch.randint(0, 5, (4,))
        opt.zero_grad()
        loss = loss_function(model(images), labels)
        loss.backward()
        opt.step()

main()
