"""Adam without warmup."""

import torch
from torch import nn

import trimtab
from trimtab.preflight.tt017_no_warmup import NoWarmup


def encoder(depth, *, norm_first=False):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    model = nn.Sequential(model, nn.Flatten(), nn.Linear(32, 3))
    return model, (torch.randn(8, 4, 8), torch.arange(8) % 3)


def test_fires_on_a_post_norm_transformer(judge, shown):
    model, batch = encoder(6)

    (finding,) = judge(
        NoWarmup(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), batch
    )

    assert shown(finding) == [
        (
            "warning, divergence: TT017 no-warmup: Adam starts a post-norm network of 12 "
            "residual sums at its full learning rate 0.001, without warmup"
        ),
        "learning rate of the first step 0.001, normal near 0, rising",
        (
            "Adam's first steps are as large as all later ones while its second moments "
            "know next to nothing, and post-norm has its largest gradients then."
        ),
        (
            "warm up over some 2000 steps (2 / (1 - beta2)), or a tenth of a short run: "
            "scheduler = trimtab.optim.warmup_cosine(optimizer, warmup_steps, "
            "total_steps)"
        ),
    ]


def test_advises_on_a_shallow_one(judge, shown):
    model, batch = encoder(2)

    (finding,) = judge(
        NoWarmup(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), batch
    )

    assert shown(finding) == [
        (
            "advice, divergence: TT017 no-warmup: Adam starts a post-norm network of 4 "
            "residual sums at its full learning rate 0.001, without warmup"
        ),
        "learning rate of the first step 0.001, normal near 0, rising",
        (
            "Adam's first steps are as large as all later ones while its second moments "
            "know next to nothing, and post-norm has its largest gradients then."
        ),
        (
            "warm up over some 2000 steps (2 / (1 - beta2)), or a tenth of a short run: "
            "scheduler = trimtab.optim.warmup_cosine(optimizer, warmup_steps, "
            "total_steps)"
        ),
    ]


def test_advises_on_a_deep_pre_norm_one(judge, shown):
    model, batch = encoder(14, norm_first=True)

    (finding,) = judge(
        NoWarmup(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), batch
    )

    assert shown(finding) == [
        (
            "advice, divergence: TT017 no-warmup: Adam starts a pre-norm network of 27 "
            "residual sums at its full learning rate 0.001, without warmup"
        ),
        "learning rate of the first step 0.001, normal near 0, rising",
        (
            "Adam's first steps are as large as all later ones while its second moments "
            "know next to nothing."
        ),
        (
            "warm up over some 2000 steps (2 / (1 - beta2)), or a tenth of a short run: "
            "scheduler = trimtab.optim.warmup_cosine(optimizer, warmup_steps, "
            "total_steps)"
        ),
    ]


def test_is_silent_with_warmup(judge):
    model, batch = encoder(6)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = trimtab.optim.warmup_cosine(optimizer, 10, 100)

    assert (
        judge(NoWarmup(), model, optimizer, nn.CrossEntropyLoss(), batch, scheduler=scheduler) == []
    )


def test_is_silent_on_warmup_that_is_attached_already(judge):
    model, batch = encoder(6)
    optimizer = torch.optim.Adam(model.parameters())
    torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=50)

    assert judge(NoWarmup(), model, optimizer, nn.CrossEntropyLoss(), batch) == []


def test_is_silent_on_shallow_pre_norm(judge):
    model, batch = encoder(4, norm_first=True)

    assert (
        judge(NoWarmup(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), batch)
        == []
    )


def test_is_silent_on_sgd(judge):
    model, batch = encoder(6)

    assert (
        judge(
            NoWarmup(),
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            nn.CrossEntropyLoss(),
            batch,
        )
        == []
    )


def test_is_silent_on_plain_networks(judge, classes):
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))

    assert (
        judge(
            NoWarmup(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
        )
        == []
    )
