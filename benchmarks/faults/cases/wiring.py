"""Parameters that the optimizer or the graph does not reach."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.common import adam, adamw, language, on_digits, program, sgd
from faults.data import adding, cancer, digits, vocabulary
from faults.models import Autoencoder, LanguageModel, Recurrent, ResNet, RowEncoder, cnn, mlp
from faults.registry import Setup, case, plain_step
from trimtab.findings import Symptom

FLAT = {Symptom.NO_LEARNING, Symptom.SILENT_CONFIG_ERROR, Symptom.SLOW_CONVERGENCE}
STALE = {"stale-parameters", "parameters-without-optimizer"}


@case(
    "stale-optimizer-mlp",
    kind="mlp",
    source="pytorch/pytorch issue 14467: the optimizer's parameters are no longer the model's",
    part="tune",
    symptoms=FLAT,
    causes=STALE,
    twin="mlp-adam",
)
def stale_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    optimizer = adam(model)
    return on_digits(g, copy.deepcopy(model), optimizer)


@case(
    "stale-optimizer-encoder",
    kind="transformer",
    source="microsoft/nni issue 4521: layers replaced after the optimizer was built",
    part="report",
    symptoms=FLAT,
    causes=STALE,
    twin="encoder-rows",
)
def stale_encoder(g: torch.Generator) -> Setup:
    model = RowEncoder()
    optimizer = adam(model)
    model.encoder = copy.deepcopy(model.encoder)
    model.head = nn.Linear(32, 10)
    model.rows = nn.Linear(8, 32)
    return on_digits(g, model, optimizer)


def pretrained(model: nn.Module, *, image: bool = False, steps: int = 150) -> nn.Module:
    """Train on the digits below five, so that there is something to fine-tune."""
    task = digits(image=image)
    keep = task.y < 5
    task.x, task.y = task.x[keep], task.y[keep]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = task.batches(32, torch.Generator().manual_seed(7))
    for _ in range(1 + steps // len(batches)):
        for x, y in batches:
            plain_step(model, optimizer, functional.cross_entropy, x, y)
    optimizer.zero_grad()
    return model


@case(
    "new-head-not-in-optimizer",
    kind="finetuning",
    source="zjunlp/HVPNeT issue 5: trainable layers that are not in the optimizer",
    part="tune",
    symptoms=FLAT,
    causes=STALE,
    site=r"head",
    twin="finetune-frozen",
)
def new_head(g: torch.Generator) -> Setup:
    model = pretrained(ResNet(), image=True)
    for p in model.parameters():
        p.requires_grad_(requires_grad=False)
    for p in model.head.parameters():
        p.requires_grad_(requires_grad=True)
    optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-3)
    model.head = nn.Linear(16, 10)
    return on_digits(g, model, optimizer, image=True)


@case(
    "replaced-head-finetuning-mlp",
    kind="finetuning",
    source="pytorch/pytorch issue 14467: a layer replaced after the optimizer was built",
    part="report",
    symptoms=FLAT,
    causes=STALE,
    site=r"4",
    twin="finetune-all",
)
def replaced_head(g: torch.Generator) -> Setup:
    model = pretrained(mlp([64, 64, 64, 10]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    assert isinstance(model, nn.Sequential)
    model[4] = nn.Linear(64, 10)
    return on_digits(g, model, optimizer)


@case(
    "optimizer-without-encoder",
    kind="autoencoder",
    source="Humbatova et al., ICSE 2020, taxonomy: parameters missing from the optimiser",
    part="tune",
    symptoms=FLAT,
    causes=STALE,
    site=r"encoder",
    twin="autoencoder",
)
def no_encoder(g: torch.Generator) -> Setup:
    task = digits()
    task.y = task.x
    model = Autoencoder(code=4)
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=1e-3)

    def score(trained: nn.Module) -> float:
        return ((trained(task.x) - task.x).square().mean() / task.x.var()).item()

    return program(task, g, model, optimizer, functional.mse_loss, score=score)


@case(
    "optimizer-without-embedding",
    kind="transformer",
    source="Humbatova et al., ICSE 2020, taxonomy: parameters missing from the optimiser",
    part="report",
    symptoms=FLAT,
    causes=STALE,
    site=r"embed|places|head|norm",
    twin="gpt-adamw",
)
def no_embedding(g: torch.Generator) -> Setup:
    model = LanguageModel(vocabulary())
    return language(g, lambda m: adamw(m.blocks, 1e-3), model=model)


@case(
    "only-batchnorm-trains",
    kind="cnn",
    source="PyTorch forum 84911 (in TrainCheck, OSDI 2025): no trainable layer but BatchNorm",
    part="tune",
    symptoms=FLAT,
    causes={"nothing-trains", "frozen-parameters"},
    twin="resnet-sgd",
)
def only_batchnorm(g: torch.Generator) -> Setup:
    model = ResNet()
    for name, p in model.named_parameters():
        p.requires_grad = "norm" in name
    return on_digits(g, model, sgd(model, 0.01), image=True)


@case(
    "all-frozen-lstm",
    kind="rnn",
    source="PyTorch forum 84911 (in TrainCheck, OSDI 2025): requires_grad switched off",
    part="report",
    symptoms=FLAT,
    causes={"nothing-trains", "frozen-parameters"},
    twin="lstm-adding",
)
def all_frozen(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    for p in model.parameters():
        p.requires_grad_(requires_grad=False)
    model.head.bias.requires_grad_(requires_grad=True)
    return program(adding(g), g, model, adam(model, 5e-3), functional.mse_loss)


class CutMlp(nn.Module):
    """Detaches what the head sees, left over from a debugging session."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp([30, 32, 32, 32])
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.body(x)).detach())


@case(
    "detached-body-mlp",
    kind="binary",
    source="Humbatova et al., ICSE 2020, taxonomy: gradient stopped by mistake",
    part="tune",
    symptoms=FLAT,
    causes={"no-gradient"},
    site=r"body",
    twin="binary-adam",
    silent=True,
)
def detached_body(g: torch.Generator) -> Setup:
    model = CutMlp()
    return program(cancer(), g, model, adam(model), functional.binary_cross_entropy_with_logits)


class CutRecurrent(Recurrent):
    """Turns the states into NumPy and back before the head."""

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.head(torch.from_numpy(y.detach().numpy())[:, -1])


@case(
    "detached-states-lstm",
    kind="rnn",
    source="Humbatova et al., ICSE 2020, taxonomy: gradient stopped by mistake",
    part="report",
    symptoms=FLAT,
    causes={"no-gradient"},
    site=r"rnn",
    twin="lstm-adding",
)
def detached_states(g: torch.Generator) -> Setup:
    model = CutRecurrent("LSTM", 2, 32, 1)
    return program(adding(g), g, model, adam(model, 5e-3), functional.mse_loss)


class HiddenMlp(nn.Module):
    """Keeps its layers in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(64, 48), nn.Linear(48, 48)]
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = functional.relu(layer(x))
        return self.head(x)


@case(
    "hidden-layers-mlp",
    kind="mlp",
    source="pytorch/pytorch issues 666, 715 and 59925: layers in a Python list",
    part="tune",
    symptoms=FLAT,
    causes={"hidden-parameters"},
    site=r"layers|outside|^$",
    twin="mlp-adam",
)
def hidden_mlp(g: torch.Generator) -> Setup:
    model = HiddenMlp()
    return on_digits(g, model, adam(model))


class HiddenBlocks(RowEncoder):
    """Keeps its encoder layers in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = {"deep": self.encoder}
        del self.encoder

    def forward(self, x: Tensor) -> Tensor:
        x = self.rows(x.reshape(-1, 8, 8)) + self.places
        return self.head(self.stages["deep"](x).mean(1))


@case(
    "hidden-blocks-encoder",
    kind="transformer",
    source="pytorch/pytorch issue 632: parameters in a dictionary are not registered",
    part="report",
    symptoms=FLAT,
    causes={"hidden-parameters"},
    site=r"stages|outside|^$",
    twin="encoder-rows",
)
def hidden_encoder(g: torch.Generator) -> Setup:
    model = HiddenBlocks()
    return on_digits(g, model, adam(model))


@case(
    "finetuning-rate-too-high-cnn",
    kind="finetuning",
    source="Mosbach et al. 2021, arXiv:2006.04884: unstable fine-tuning",
    part="report",
    symptoms={
        Symptom.DIVERGENCE,
        Symptom.OSCILLATING_LOSS,
        Symptom.EXPLODING_GRADIENT,
        Symptom.NO_LEARNING,
    }
    | {Symptom.LOSS_SPIKE, Symptom.DEAD_UNITS},
    causes={"learning-rate-too-high"},
    twin="finetune-all",
)
def finetune_cnn(g: torch.Generator) -> Setup:
    model = pretrained(cnn(norm=False), image=True)
    return on_digits(g, model, sgd(model, 1.0), image=True)


@case(
    "finetuning-rate-too-high-mlp",
    kind="finetuning",
    source="Howard & Ruder 2018, arXiv:1801.06146: catastrophic forgetting at a high rate",
    part="tune",
    symptoms={
        Symptom.DIVERGENCE,
        Symptom.OSCILLATING_LOSS,
        Symptom.EXPLODING_GRADIENT,
        Symptom.NO_LEARNING,
    }
    | {Symptom.LOSS_SPIKE, Symptom.DEAD_UNITS},
    causes={"learning-rate-too-high"},
    twin="finetune-all",
)
def finetune_mlp(g: torch.Generator) -> Setup:
    model = pretrained(mlp([64, 64, 64, 10]))
    return on_digits(g, model, adam(model, 0.3))
