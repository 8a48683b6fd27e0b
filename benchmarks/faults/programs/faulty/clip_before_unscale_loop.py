# part: tune
# source: pytorch/examples issue 1196; milesial/Pytorch-UNet issue 468
# expects: TT701
import torch
from torch import nn

device = "cuda" if torch.cuda.is_available() else "cpu"
model = nn.Linear(20, 3).to(device)
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4)
grad_scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
criterion = nn.CrossEntropyLoss()
loader = [(torch.randn(8, 20), torch.randint(0, 3, (8,))) for _ in range(4)]

for epoch in range(2):
    model.train()
    for images, masks in loader:
        images, masks = images.to(device), masks.to(device)
        with torch.autocast(device, dtype=torch.float16, enabled=device == "cuda"):
            loss = criterion(model(images), masks)
        optimizer.zero_grad(set_to_none=True)
        grad_scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        grad_scaler.step(optimizer)
        grad_scaler.update()
