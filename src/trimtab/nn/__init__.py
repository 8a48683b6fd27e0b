"""Networks and parts of networks that are sound before step 0."""

from trimtab.nn._attention import Attention, QueriesKeys
from trimtab.nn._feed_forward import GEGLU, GLU, FeedForward, SwiGLU, gated_hidden
from trimtab.nn._gpt import GPT
from trimtab.nn._head import Head, TiedHead
from trimtab.nn._norms import norm, sync_batchnorm_
from trimtab.nn._residual import DeepNorm, PostNorm, PreNorm, Residual
from trimtab.nn._residual_choice import residual
from trimtab.nn._rope import RotaryEmbedding
from trimtab.nn._scaled_residual import (
    Highway,
    LayerScale,
    ReZero,
    highway_gate_bias,
    layer_scale_init,
)
from trimtab.nn._softcap import softcap
from trimtab.nn._spectral import spectral_norm_
from trimtab.nn._stablenet import StableNet
from trimtab.nn._stochastic_depth import StochasticDepth, linear_decay

__all__ = [
    "GEGLU",
    "GLU",
    "GPT",
    "Attention",
    "DeepNorm",
    "FeedForward",
    "Head",
    "Highway",
    "LayerScale",
    "PostNorm",
    "PreNorm",
    "QueriesKeys",
    "ReZero",
    "Residual",
    "RotaryEmbedding",
    "StableNet",
    "StochasticDepth",
    "SwiGLU",
    "TiedHead",
    "gated_hidden",
    "highway_gate_bias",
    "layer_scale_init",
    "linear_decay",
    "norm",
    "residual",
    "softcap",
    "spectral_norm_",
    "sync_batchnorm_",
]
