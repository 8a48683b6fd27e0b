# part: tune
# source: WGAN-GP: a graph is kept on purpose
import torch
from torch import nn

critic = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
for _ in range(3):
    real, fake = torch.randn(8, 2), torch.randn(8, 2)
    mix = torch.lerp(real, fake, torch.rand(8, 1)).requires_grad_(True)
    grad = torch.autograd.grad(critic(mix).sum(), mix, create_graph=True)[0]
    penalty = (grad.norm(dim=1) - 1).pow(2).mean()
    loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
