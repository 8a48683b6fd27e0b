# part: tune
# source: a total that is backpropagated, and its parts logged
import torch
from torch import nn

encoder, decoder = nn.Linear(8, 4), nn.Linear(4, 8)
params = list(encoder.parameters()) + list(decoder.parameters())
optimizer = torch.optim.Adam(params, lr=1e-3)
log = {"rec": 0.0, "reg": 0.0}
for _ in range(4):
    x = torch.randn(16, 8)
    z = encoder(x)
    rec = nn.functional.mse_loss(decoder(z), x)
    reg = z.square().mean()
    loss = 0
    loss += rec
    loss += 0.1 * reg
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    log["rec"] += rec.item()
    log["reg"] += reg.detach()
