"""Initialisers: first weights with which a signal keeps its size through any depth."""

from trimtab.init._auto import auto_
from trimtab.init._deepnorm import deepnorm_, deepnorm_constants
from trimtab.init._fixup import fixup_
from trimtab.init._gains import measure_gain
from trimtab.init._gpt2 import gpt2_
from trimtab.init._he import he_
from trimtab.init._lsuv import lsuv_
from trimtab.init._orthogonal import orthogonal_
from trimtab.init._plan import Choice, plan
from trimtab.init._trunc_normal import trunc_normal_
from trimtab.init._xavier import xavier_

__all__ = [
    "Choice",
    "auto_",
    "deepnorm_",
    "deepnorm_constants",
    "fixup_",
    "gpt2_",
    "he_",
    "lsuv_",
    "measure_gain",
    "orthogonal_",
    "plan",
    "trunc_normal_",
    "xavier_",
]
