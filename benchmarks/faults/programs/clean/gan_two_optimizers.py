# part: tune
# source: DCGAN tutorial: the fake is detached for the discriminator
import torch
from torch import nn

G = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
D = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
optG = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
optD = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()
for step in range(4):
    real = torch.randn(16, 2)
    fake = G(torch.randn(16, 8))
    D.zero_grad()
    errD_real = bce(D(real), torch.ones(16, 1))
    errD_real.backward()
    errD_fake = bce(D(fake.detach()), torch.zeros(16, 1))
    errD_fake.backward()
    optD.step()
    G.zero_grad()
    errG = bce(D(fake), torch.ones(16, 1))
    errG.backward()
    optG.step()
