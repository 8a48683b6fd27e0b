"""Rules over signals: what a run shows of its faults while it goes on."""

from trimtab.rules._diagnose_run import diagnose_run
from trimtab.rules._history import History, Series, Table
from trimtab.rules._judge import Judge, note_finding
from trimtab.rules._rule import RunRule
from trimtab.rules._setup import GroupFacts, ModuleFacts, ParamFacts, Setup, describe_setup
from trimtab.rules.tt101_vanishing_gradient import VanishingGradient
from trimtab.rules.tt102_exploding_gradient import ExplodingGradient
from trimtab.rules.tt103_missing_gradient import MissingGradient
from trimtab.rules.tt104_clipped_every_step import ClippedEveryStep
from trimtab.rules.tt105_first_layer_gradient import FirstLayerGradient
from trimtab.rules.tt106_accumulating_gradients import AccumulatingGradients
from trimtab.rules.tt107_nonfinite_gradient import NonfiniteGradient
from trimtab.rules.tt108_zero_gradient import ZeroGradient
from trimtab.rules.tt201_dead_units import DeadUnits
from trimtab.rules.tt202_saturated_units import SaturatedUnits
from trimtab.rules.tt203_covariate_drift import CovariateDrift
from trimtab.rules.tt204_rank_collapse import RankCollapse
from trimtab.rules.tt205_attention_entropy_collapse import AttentionEntropyCollapse
from trimtab.rules.tt206_attention_logit_growth import AttentionLogitGrowth
from trimtab.rules.tt207_nonfinite_activation import NonfiniteActivation
from trimtab.rules.tt208_growing_activations import GrowingActivations
from trimtab.rules.tt601_replicas_differ import ReplicasDiffer
from trimtab.rules.tt602_batchnorm_statistics_differ import BatchnormStatisticsDiffer

__all__ = [
    "AccumulatingGradients",
    "AttentionEntropyCollapse",
    "AttentionLogitGrowth",
    "BatchnormStatisticsDiffer",
    "ClippedEveryStep",
    "CovariateDrift",
    "DeadUnits",
    "ExplodingGradient",
    "FirstLayerGradient",
    "GroupFacts",
    "GrowingActivations",
    "History",
    "Judge",
    "MissingGradient",
    "ModuleFacts",
    "NonfiniteActivation",
    "NonfiniteGradient",
    "ParamFacts",
    "RankCollapse",
    "ReplicasDiffer",
    "RunRule",
    "SaturatedUnits",
    "Series",
    "Setup",
    "Table",
    "VanishingGradient",
    "ZeroGradient",
    "describe_setup",
    "diagnose_run",
    "note_finding",
]
