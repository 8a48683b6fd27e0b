# part: report
# source: word language model: the hidden state is detached between chunks
import torch
from torch import nn

rnn, head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 8)
params = [*rnn.parameters(), *head.parameters()]
optimizer = torch.optim.SGD(params, lr=0.5)
state = None
for chunk in torch.randn(5, 4, 10, 8):
    optimizer.zero_grad()
    if state is not None:
        state = tuple(s.detach() for s in state)
    out, state = rnn(chunk, state)
    loss = nn.functional.mse_loss(head(out[:, :-1]), chunk[:, 1:])
    loss.backward()
    nn.utils.clip_grad_norm_(params, 0.25)
    optimizer.step()
