# part: report
# source: Humbatova et al., ICSE 2020: learning rate schedule
# expects: TT703
import torch
from torch import nn, optim
from torch.optim import lr_scheduler
from tqdm import tqdm


def train(model, dataloader, num_epochs=25):
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    exp_lr_scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_epochs)
    for epoch in range(num_epochs):
        model.train()
        for inputs, labels in tqdm(dataloader):
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            exp_lr_scheduler.step()
    return model


train(nn.Linear(10, 2), [(torch.randn(8, 10), torch.randint(0, 2, (8,)))], 2)
