"""Faulty programs as strangers write them: one fault each, told once."""

import pytest

from trimtab.lint import lint_source

PROGRAMS = [
    (
        "TT704",
        """\
import torch
from torch import nn, optim
class Trainer:
    def __init__(self, model, cfg):
        self.net = model
        self.opt = getattr(optim, cfg["optimizer"])(model.parameters(), lr=cfg["lr"])
        self.criterion = nn.CrossEntropyLoss()
    def _step(self, batch):
        inputs, targets = batch
        preds = self.net(inputs)
        loss = self.criterion(preds, targets)
        loss.backward()
        self.opt.step()
        return loss.item()
    def run(self, loader, epochs):
        for epoch in range(epochs):
            losses = [self._step(b) for b in loader]
""",
    ),
    (
        "TT701",
        """\
import torch
def train(model, loader, opt, use_amp=True):
    scaler = torch.cuda.amp.GradScaler(enabled=use_amp)
    for step, batch in enumerate(loader):
        with torch.cuda.amp.autocast(enabled=use_amp):
            out = model(**batch)
            loss = out.loss
        scaler.scale(loss).backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad(set_to_none=True)
""",
    ),
    (
        "TT706",
        """\
import torch
accumulation_steps = 8
def train_epoch(model, loader, optimizer, loss_fn):
    model.train()
    optimizer.zero_grad()
    for batch_idx, (xb, yb) in enumerate(loader):
        pred = model(xb)
        loss = loss_fn(pred, yb)
        loss.backward()
        if ((batch_idx + 1) % accumulation_steps == 0) or (batch_idx + 1 == len(loader)):
            optimizer.step()
            optimizer.zero_grad()
""",
    ),
    (
        "TT706",
        """\
import torch
step = 0
for x, y in loader:
    loss = criterion(model(x), y)
    loss.backward()
    step += 1
    if step % args.gradient_accumulation_steps != 0:
        continue
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
""",
    ),
    (
        "TT706",
        """\
import torch
for it in range(max_iters):
    for micro_step in range(gradient_accumulation_steps):
        x, y = get_batch("train")
        with ctx:
            logits, loss = model(x, y)
        loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
""",
    ),
    (
        "TT703",
        """\
import torch
from transformers import get_linear_schedule_with_warmup
def main(args):
    train_loader = build(args)
    num_training_steps = args.epochs * len(train_loader)
    opt = torch.optim.AdamW(model.parameters(), lr=2e-5)
    lr_scheduler = get_linear_schedule_with_warmup(
        opt, num_warmup_steps=100, num_training_steps=num_training_steps
    )
    for epoch in range(args.epochs):
        for batch in train_loader:
            opt.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            opt.step()
        lr_scheduler.step()
""",
    ),
    (
        "TT703",
        """\
import torch
import torch.optim as optim
scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
for epoch in range(25):
    for phase in ["train"]:
        for inputs, labels in dataloaders[phase]:
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
""",
    ),
    (
        "TT707",
        """\
import torch
class Classifier(torch.nn.Module):
    def __init__(self, d, k):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(d, d), torch.nn.Linear(d, k)])
        self.out = torch.nn.Softmax(dim=-1)
    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        logits = self.layers[-1](x)
        probs = self.out(logits)
        return probs
def train(model, data, epochs=5):
    opt = torch.optim.Adam(model.parameters())
    crit = torch.nn.CrossEntropyLoss()
    for _ in range(epochs):
        for xb, yb in data:
            opt.zero_grad()
            l = crit(model(xb), yb)
            l.backward()
            opt.step()
model = Classifier(10, 3)
train(model, data)
""",
    ),
    (
        "TT710",
        """\
import torch, torchvision
model = torchvision.models.resnet18(num_classes=10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
criterion = torch.nn.CrossEntropyLoss()
for epoch in range(5):
    model.train()
    for images, labels in trainloader:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
    correct = 0
    with torch.no_grad():
        for images, labels in testloader:
            outputs = model(images)
            correct += (outputs.argmax(1) == labels).sum().item()
""",
    ),
    (
        "TT711",
        """\
import torch, torchvision
def evaluate(net, dataloader):
    net.eval()
    total = 0
    for images, labels in dataloader:
        total += (net(images).argmax(1) == labels).sum().item()
    return total
net = torchvision.models.resnet18()
print(evaluate(net, testloader))
""",
    ),
    (
        "TT709",
        """\
import torch
epoch_loss = 0
for batch in loader:
    optimizer.zero_grad()
    pred = model(batch[0])
    loss = torch.nn.functional.mse_loss(pred, batch[1])
    loss.backward()
    optimizer.step()
    epoch_loss = epoch_loss + loss
print(epoch_loss / len(loader))
""",
    ),
    (
        "TT709",
        """\
import torch
def fit(model, loader, opt, hist):
    stats = {"loss": 0.0}
    for x, y in loader:
        opt.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        opt.step()
        stats["loss"] += loss
    return stats
""",
    ),
    (
        "TT724",
        """\
import torch
def train_one(model, opt, x, y, loss_fn):
    loss = loss_fn(model(x), y)
    loss.backward()
    opt.zero_grad()
    opt.step()
    return float(loss)
for i in range(10):
    train_one(model, opt, x, y, loss_fn)
""",
    ),
    (
        "TT723",
        """\
import torch
for e in range(10):
    for x, y in dl:
        y_hat = net(x)
        loss = criterion(y_hat, y)
        optimizer.zero_grad()
        optimizer.step()
        running_loss += loss.item()
""",
    ),
    (
        "TT722",
        """\
import torch
for e in range(10):
    for x, y in dl:
        optimizer.zero_grad()
        with torch.no_grad():
            y_hat = net(x)
        loss = criterion(y_hat, y)
        loss.requires_grad = True
        loss.backward()
        optimizer.step()
""",
    ),
    (
        "TT722",
        """\
import torch
import numpy as np
for x, y in dl:
    optimizer.zero_grad()
    pred = net(x).detach().numpy()
    loss = torch.tensor(np.mean((pred - y.numpy()) ** 2), requires_grad=True)
    loss.backward()
    optimizer.step()
""",
    ),
    (
        "TT719",
        """\
import torch.nn as nn
class MLP(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        layers = []
        for a, b in zip(sizes, sizes[1:]):
            layers.append(nn.Linear(a, b))
        self.layers = layers
    def forward(self, x):
        for l in self.layers:
            x = l(x).relu()
        return x
""",
    ),
    (
        "TT719",
        """\
import torch.nn as nn
class MultiHead(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        self.heads = []
        for i in range(n):
            head = nn.Linear(d, d)
            self.heads.append(head)
    def forward(self, x):
        return sum(h(x) for h in self.heads)
""",
    ),
    (
        "TT713",
        """\
import torch, torchvision
import torch.nn as nn
def main():
    model = torchvision.models.resnet50(pretrained=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    num_ftrs = model.fc.in_features
    model.fc = nn.Linear(num_ftrs, 2)
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
""",
    ),
    (
        "TT712",
        """\
import torch
device = torch.device("cuda:0")
model = MyModel()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
model = model.to(device)
""",
    ),
    (
        "TT714",
        """\
import torch
from torch.utils.data.distributed import DistributedSampler
def run(rank, world):
    ds = make()
    sampler = DistributedSampler(ds, num_replicas=world, rank=rank, shuffle=True)
    dl = torch.utils.data.DataLoader(ds, sampler=sampler)
    for ep in range(10):
        for b in dl:
            opt.zero_grad()
            model(b).mean().backward()
            opt.step()
""",
    ),
    (
        "TT716",
        """\
import torch
import torch.nn as nn
class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 8)
    def forward(self, x):
        return self.fc(self.ln(x))
def make_optimizer(model, lr=1e-3, wd=0.1):
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=wd)
opt = make_optimizer(Tiny())
""",
    ),
    (
        "TT716",
        """\
import argparse, torch
import torch.nn as nn
parser = argparse.ArgumentParser()
parser.add_argument("--weight-decay", type=float, default=0.1)
args = parser.parse_args()
model = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4), 2)
opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=args.weight_decay)
""",
    ),
    (
        "TT705",
        """\
import torch
def train(model, loader, optimizer, device="cuda"):
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast(device_type=device, dtype=torch.float16):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
""",
    ),
    (
        "TT708",
        """\
import torch
from torch import nn
class D(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, 64, 4), nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 4), nn.Sigmoid()
        )
    def forward(self, x):
        return self.main(x).view(-1)
netD = D()
criterion = nn.BCEWithLogitsLoss()
opt = torch.optim.Adam(netD.parameters())
for real, _ in dl:
    netD.zero_grad()
    out = netD(real)
    err = criterion(out, torch.ones_like(out))
    err.backward()
    opt.step()
""",
    ),
    (
        "TT725",
        """\
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
def validate(m, val_loader):
    m.eval()
    with torch.no_grad():
        return sum(m(x).sum().item() for x, y in val_loader)
def main():
    model.train()
    for epoch in range(10):
        for x, y in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        print(validate(model, val_loader))
main()
""",
    ),
    (
        "TT726",
        """\
import torch
hidden = None
for x, y in loader:
    out, hidden = rnn(x, hidden)
    loss = criterion(out, y)
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    optimizer.step()
""",
    ),
    (
        "TT702",
        """\
import torch
for epoch in range(100):
    scheduler.step()
    for i, (x, y) in enumerate(trainloader):
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()
""",
    ),
    (
        "TT717",
        """\
import torch
for x, y in dl:
    loss = ((model(x) - y) ** 2).mean()
    model.zero_grad()
    loss.backward()
    for p in model.parameters():
        p.data -= 0.01 * p.grad
""",
    ),
    (
        "TT718",
        """\
import numpy as np, torch
from torch.utils.data import Dataset, DataLoader
class DS(Dataset):
    def __getitem__(self, i):
        angle = np.random.uniform(-10, 10)
        return self.load(i, angle)
    def __len__(self): return 10
loader = DataLoader(DS(), batch_size=4, num_workers=8)
""",
    ),
    (
        "TT720",
        """\
import torch
for x, y in dl:
    optimizer.zero_grad()
    loss1 = criterion(net(x), y)
    loss1.backward()
    log(loss1)
    loss1.backward()
    optimizer.step()
""",
    ),
    (
        "TT727",
        """\
import torch
scaler = torch.amp.GradScaler()
for x, y in dl:
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = criterion(net(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
""",
    ),
    (
        "TT715",
        """\
import torch
import torchvision
from torch.nn.parallel import DistributedDataParallel
model = torchvision.models.resnet50().cuda()
model = DistributedDataParallel(model, device_ids=[0])
""",
    ),
    (
        "TT735",
        """\
import torch
opt = torch.optim.Adam(net.parameters())
for epoch in range(3):
    for x, y in dl:
        opt.zero_grad()
        loss = criterion(net(x), y)
        loss.backward()
    print(loss.item())
""",
    ),
]


@pytest.mark.parametrize(("code", "text"), PROGRAMS)
def test_the_fault_is_found_and_nothing_else(code, text):
    assert [f.code for f in lint_source(text)] == [code]
