# part: report
# source: DeepSpeed issue 1120; PyTorch's UserWarning since 1.1
# expects: TT702
import torch
from torch import nn

def run(steps=100):
    model = nn.GRU(8, 8, batch_first=True)
    optim = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sched = torch.optim.lr_scheduler.LambdaLR(optim, lambda s: min(1.0, (s + 1) / 10))
    for step in range(steps):
        batch = torch.randn(4, 12, 8)
        optim.zero_grad()
        loss = model(batch)[0].square().mean()
        loss.backward()
        sched.step()
        optim.step()
    return model

run()
