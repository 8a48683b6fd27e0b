"""Which parameters decay, for all kinds of layers."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from trimtab.errors import ConfigError
from trimtab.nn import GPT, ReZero
from trimtab.optim import no_decay_params, param_groups


def decayed(model, **options):
    """Names of the parameters with decay, and of those without."""
    groups = param_groups(model, 0.1, **options)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [g["weight_decay"] for g in groups] in ([0.1, 0.0], [0.1], [0.0])
    found = {g["weight_decay"]: [names[id(p)] for p in g["params"]] for g in groups}
    return found.get(0.1, []), found.get(0.0, [])


class LlamaRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(4),
        nn.LayerNorm((3, 4, 4)),  # its weights have three dimensions
        nn.RMSNorm((2, 4)),
        nn.GroupNorm(2, 4),
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, affine=True),
        LlamaRMSNorm(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_norms_do_not_decay_whatever_their_shape(norm):
    yes, no = decayed(nn.Sequential(nn.Linear(4, 4, bias=False), norm))

    assert yes == ["0.weight"]
    assert set(no) == {name for name, _ in nn.Sequential(nn.Identity(), norm).named_parameters()}


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        (nn.Linear(4, 1), ["weight"]),
        (nn.Conv2d(3, 4, 3), ["weight"]),
        (nn.ConvTranspose1d(3, 4, 3), ["weight"]),
        (nn.Bilinear(2, 3, 4), ["weight"]),
        (nn.Embedding(5, 4), ["weight"]),
        (nn.LSTM(3, 4), ["weight_ih_l0", "weight_hh_l0"]),
        (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
        (nn.PReLU(4), []),
        (ReZero(nn.Linear(4, 4), 4), ["branch.weight"]),
        (spectral_norm(nn.Linear(4, 4)), ["parametrizations.weight.original"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_decay_and_vectors_do_not(layer, weights):
    yes, no = decayed(layer)

    assert yes == weights
    assert sorted(yes + no) == sorted(name for name, _ in layer.named_parameters())


def test_a_name_decides_nothing():
    """A linear layer called norm decays; a norm called linear does not."""
    model = nn.ModuleDict({"norm": nn.Linear(4, 4), "linear_weight": nn.LayerNorm((2, 4))})

    yes, _ = decayed(model)

    assert yes == ["norm.weight"]


def test_tied_weights_appear_once():
    model = nn.ModuleDict({"embedding": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
    model["head"].weight = model["embedding"].weight

    assert decayed(model) == (["embedding.weight"], [])
    assert decayed(model, decay_embeddings=False) == ([], ["embedding.weight"])


def test_a_parameter_shared_with_a_norm_does_not_decay():
    model = nn.ModuleList([nn.Linear(4, 4, bias=False), LlamaRMSNorm()])
    model[1].weight = model[0].weight

    assert decayed(model) == ([], ["0.weight"])


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).requires_grad_(False)
    model[1].requires_grad_(True)

    assert decayed(model) == (["1.weight"], ["1.bias"])


def test_embeddings_and_exclusions_by_choice():
    model = nn.ModuleDict(
        {"tokens": nn.Embedding(5, 4), "a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    )

    yes, _ = decayed(model, decay_embeddings=False, exclude=[model["b"]])

    assert yes == ["a.weight"]


def test_every_parameter_of_a_model_is_in_one_group(generator):
    model = GPT(16, dim=16, depth=2, num_heads=2, generator=generator)

    yes, no = decayed(model)

    assert sorted(yes + no) == sorted(name for name, _ in model.named_parameters())
    assert all("norm" in name or "bias" in name for name in no)
    torch.optim.AdamW(param_groups(model, 0.1), lr=1e-3, fused=True)


def test_what_decay_harms_is_named_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

    assert [name for name, _ in no_decay_params(model)] == ["0.bias", "1.weight", "1.bias"]


def test_a_weight_that_is_sharded_away_keeps_its_kind():
    """DeepSpeed's ZeRO-3 replaces parameters by empty ones and notes their shape."""
    model = nn.Linear(4, 4)
    model.weight.ds_shape = model.weight.shape
    model.weight.data = torch.empty(0)

    assert decayed(model) == (["weight"], ["bias"])


def test_a_meta_model_can_be_split():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

    assert decayed(model)[0] == ["0.weight"]


@pytest.mark.parametrize("decay", [-0.1, math.nan, math.inf, "0.1", True])
def test_a_bad_decay_is_refused(decay):
    with pytest.raises(ConfigError, match="weight_decay must be finite and not negative"):
        param_groups(nn.Linear(2, 2), decay)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.ReLU(), "no trainable parameter"),
        (nn.Linear(2, 2).requires_grad_(False), "no trainable parameter"),
        (list(nn.Linear(2, 2).parameters()), "needs the model"),
    ],
)
def test_a_model_without_anything_to_train_is_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        param_groups(model, 0.1)


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_shapeless_parameter_is_refused():
    with pytest.raises(ConfigError, match=r"0\.weight has no shape yet"):
        param_groups(nn.Sequential(nn.LazyLinear(4)), 0.1)
