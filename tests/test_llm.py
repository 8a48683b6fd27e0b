"""The language-model configuration: its numbers, what it builds, and what it refuses."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.llm import SYNONYMS, LLMConfig
from trimtab.losses import cross_entropy
from trimtab.nn import GPT, Attention

SMALL = {
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "ffn_size": 32,
    "vocab_size": 11,
    "max_len": 8,
}


def test_defaults():
    config = LLMConfig()

    assert (config.hidden_size, config.num_layers, config.num_heads) == (768, 12, 12)
    assert (config.ffn_size, config.vocab_size, config.max_len) == (3072, 50257, 1024)
    assert (config.lr, config.min_lr, config.weight_decay) == (1e-4, 1e-6, 0.1)
    assert (config.betas, config.eps, config.clip) == ((0.9, 0.95), 1e-8, 1.0)
    assert (config.total_steps, config.warmup_steps) == (100_000, 2000)
    assert (config.global_batch_size, config.micro_batch_size) == (512, 4)
    assert config.precision == "bf16"


def test_the_batch_adds_up():
    config = LLMConfig(num_ranks=8)

    assert config.accumulation == 16
    assert config.tokens_per_step == 512 * 1024
    assert config.total_tokens == 512 * 1024 * 100_000
    assert LLMConfig(num_ranks=8, accumulation_steps=16).accumulation == 16
    assert dataclasses.replace(config, num_ranks=2).accumulation == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"global_batch_size": 100, "micro_batch_size": 3},
            "global_batch_size 100 is not a multiple of micro_batch_size 3 times num_ranks 1, "
            "which is 3, so no number of accumulation steps makes it. Take global_batch_size=99 or "
            "global_batch_size=102 or micro_batch_size=2.",
        ),
        (
            {"global_batch_size": 4, "micro_batch_size": 3, "num_ranks": 3},
            "global_batch_size 4 is not a multiple of micro_batch_size 3 times num_ranks 3, which "
            "is 9, so no number of accumulation steps makes it. Take global_batch_size=9.",
        ),
        (
            {"accumulation_steps": 100},
            "micro_batch_size 4 times accumulation_steps 100 times num_ranks 1 is 400, but "
            "global_batch_size is 512. Leave accumulation_steps out, which makes it 128, or take "
            "global_batch_size=400.",
        ),
        (
            {"num_heads": 7},
            "hidden_size 768 cannot be divided among 7 heads. Take num_heads=6, or a multiple of 7 "
            "for hidden_size.",
        ),
        (
            {"min_lr": 1e-3},
            "min_lr is 0.001, above lr, 0.0001: the learning rate falls from lr to min_lr. Lower "
            "min_lr, or pass min_lr=lr to keep the rate constant.",
        ),
        (
            {"total_steps": 1000},
            "warmup_steps is 2000, but the run has 1000 steps: it would end before it reached its "
            "learning rate. Lower warmup_steps, or raise total_steps.",
        ),
    ],
)
def test_refuses_what_does_not_fit_together(options, message):
    with pytest.raises(ConfigError) as error:
        LLMConfig(**options)

    assert str(error.value) == message


COUNTS = [
    "hidden_size",
    "num_layers",
    "num_heads",
    "ffn_size",
    "vocab_size",
    "max_len",
    "total_steps",
    "global_batch_size",
    "micro_batch_size",
    "num_ranks",
    "accumulation_steps",
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in COUNTS for value in (0, -1, 2.0, True, "3")),
        *(("warmup_steps", value) for value in (-1, 0.1, True, None)),
        *((n, v) for n in ("lr", "eps", "clip") for v in (0.0, -1.0, math.nan, math.inf, "1")),
        *((n, v) for n in ("min_lr", "weight_decay", "z_loss") for v in (-1e-9, math.nan, None)),
        *(
            (name, value)
            for name in ("dropout", "attention_dropout", "label_smoothing")
            for value in (-0.1, 1.0, math.nan, None, False)
        ),
        *(("betas", v) for v in ((0.9,), (0.9, 1.0), (-0.1, 0.9), 0.9, None, (0.9, 0.9, 0.9))),
        ("precision", "fp8"),
        ("precision", None),
    ],
)
def test_refuses_values_out_of_range(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be .*got ") as error:
        LLMConfig(**{name: value})

    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"warmup_steps": 0},
        {"warmup_steps": 100_000},
        {"min_lr": 0},
        {"min_lr": 1e-4},
        {"weight_decay": 0, "z_loss": 0, "dropout": 0, "attention_dropout": 0},
        {"betas": (0, 0.999)},
        {"micro_batch_size": 512},
    ],
)
def test_edges_are_legal(options):
    LLMConfig(**options)


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LLMConfig().lr = 1.0


def test_builds_its_optimizer():
    config = LLMConfig(**SMALL, weight_decay=0.2, lr=3e-4, betas=(0.8, 0.9), eps=1e-7)
    model = config.model()

    optimizer = config.optimizer(model)

    assert type(optimizer) is torch.optim.AdamW
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.2, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    norms = {id(p) for m in model.modules() if isinstance(m, nn.RMSNorm) for p in m.parameters()}
    assert norms <= {id(p) for p in plain["params"]}
    count = sum(len(g["params"]) for g in optimizer.param_groups)
    assert count == len(list(model.parameters()))
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (3e-4, (0.8, 0.9), 1e-7)
        assert group["fused"] is True


def test_the_optimizer_is_not_fused_where_pytorch_has_no_kernel():
    optimizer = LLMConfig().optimizer(nn.Linear(2, 2, device="meta"))

    assert not optimizer.param_groups[0]["fused"]


def test_builds_its_schedule():
    config = LLMConfig(**SMALL, total_steps=10, warmup_steps=4, lr=1e-3, min_lr=1e-5)
    optimizer = config.optimizer(config.model())
    schedule = config.schedule(optimizer)
    seen = []
    for _ in range(13):
        seen.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        schedule.step()

    assert seen[:5] == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert seen[7] == pytest.approx((1e-3 + 1e-5) / 2)
    assert seen[10:] == pytest.approx([1e-5] * 3)


def test_builds_its_model(generator):
    config = LLMConfig(**SMALL, dropout=0.2, attention_dropout=0.3)
    model = config.model(generator=generator, qk_norm=False)

    logits = model(torch.zeros(2, 8, dtype=torch.long))

    assert isinstance(model, GPT)
    assert logits.shape == (2, 8, 11)
    attentions = [m for m in model.modules() if isinstance(m, Attention)]
    assert [a.dropout for a in attentions] == [0.3, 0.3]
    assert [a.num_heads for a in attentions] == [4, 4]
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.2}
    assert sorted({m.out_features for m in model.modules() if isinstance(m, nn.Linear)}) == [16, 32]


def test_the_default_model_has_the_size_of_gpt2():
    with torch.device("meta"):
        model = LLMConfig().model()

    assert sum(p.numel() for p in model.parameters()) == pytest.approx(124e6, rel=0.02)


def test_the_model_takes_no_setting_twice():
    with pytest.raises(ConfigError, match="depth, dim of the model follow from the configuration"):
        LLMConfig(**SMALL).model(dim=8, depth=1)


def test_its_loss_is_the_one_it_describes(generator):
    config = LLMConfig(**SMALL, label_smoothing=0.1, z_loss=1e-2)
    logits = torch.randn(2, 8, 11, generator=generator)
    targets = torch.randint(11, (2, 8), generator=generator)

    expected = cross_entropy(logits, targets, label_smoothing=0.1, z_loss=1e-2)

    assert config.loss(logits, targets) == expected


def test_options_of_its_stepper():
    options = LLMConfig(clip=0.5, precision="fp16", num_ranks=4).stepper_options()

    assert options == {"clip": 0.5, "precision": "fp16", "accumulate": 32}


def test_goes_through_json_and_back():
    config = LLMConfig(**SMALL, betas=(0.8, 0.99), num_ranks=2, precision="fp32")
    settings = json.loads(json.dumps(config.to_dict()))

    assert LLMConfig.from_dict(settings) == config
    assert LLMConfig.from_dict({}) == LLMConfig()
    assert "accumulation_steps" not in settings  # derived, and free to follow other ranks
    given = LLMConfig(accumulation_steps=128)
    assert LLMConfig.from_dict(given.to_dict()) == given
    assert hash(LLMConfig.from_dict(LLMConfig().to_dict())) == hash(LLMConfig())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hiden_size", "Did you mean 'hidden_size'?"),
        ("learning_rate", "Did you mean 'lr'?"),
        ("n_layer", "Did you mean 'num_layers'?"),
        ("max_grad_norm", "Did you mean 'clip'?"),
        ("gradient_accumulation_steps", "Did you mean 'accumulation_steps'?"),
    ],
)
def test_from_dict_names_the_nearest_setting(name, hint):
    with pytest.raises(ConfigError) as error:
        LLMConfig.from_dict({name: 1})

    assert str(error.value) == f"LLMConfig has no setting {name!r}. {hint}"


def test_from_dict_lists_all_settings_if_none_is_near():
    with pytest.raises(ConfigError, match=r"no setting 'zzz'\. Known are hidden_size, num_layers"):
        LLMConfig.from_dict({"zzz": 1})


def test_every_synonym_is_of_a_setting():
    known = {f.name for f in dataclasses.fields(LLMConfig)}

    assert set(SYNONYMS.values()) <= known
    assert not SYNONYMS.keys() & known
