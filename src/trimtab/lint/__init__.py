"""Rules over the source code of training loops; nothing is executed."""

from trimtab.lint._command import CheckResult, check_command
from trimtab.lint._edits import apply_fixes
from trimtab.lint._lint import fix_source, lint_function, lint_source
from trimtab.lint._paths import lint_paths
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint.tt701_clip_before_unscale import ClipBeforeUnscale
from trimtab.lint.tt702_scheduler_before_optimizer import SchedulerBeforeOptimizer
from trimtab.lint.tt703_schedule_cadence import ScheduleCadence
from trimtab.lint.tt704_missing_zero_grad import MissingZeroGrad
from trimtab.lint.tt705_unscaled_backward import UnscaledBackward
from trimtab.lint.tt706_undivided_accumulation import UndividedAccumulation
from trimtab.lint.tt707_softmax_before_cross_entropy import SoftmaxBeforeCrossEntropy
from trimtab.lint.tt708_sigmoid_before_bce_with_logits import SigmoidBeforeBceWithLogits
from trimtab.lint.tt709_graph_kept_alive import GraphKeptAlive
from trimtab.lint.tt710_evaluation_without_eval import EvaluationWithoutEval
from trimtab.lint.tt711_evaluation_without_no_grad import EvaluationWithoutNoGrad
from trimtab.lint.tt712_optimizer_before_move import OptimizerBeforeMove
from trimtab.lint.tt713_layers_replaced_after_optimizer import LayersReplacedAfterOptimizer
from trimtab.lint.tt714_no_set_epoch import NoSetEpoch
from trimtab.lint.tt715_unsynchronised_batchnorm import UnsynchronisedBatchNorm
from trimtab.lint.tt716_decay_on_all_parameters import DecayOnAllParameters
from trimtab.lint.tt717_data_write import DataWrite
from trimtab.lint.tt718_numpy_worker_seed import NumpyWorkerSeed
from trimtab.lint.tt719_hidden_parameters import HiddenParameters
from trimtab.lint.tt720_double_backward import DoubleBackward
from trimtab.lint.tt721_missing_sigmoid import MissingSigmoid
from trimtab.lint.tt722_cut_loss import CutLoss
from trimtab.lint.tt723_step_without_backward import StepWithoutBackward
from trimtab.lint.tt724_gradients_cleared_before_step import GradientsClearedBeforeStep
from trimtab.lint.tt725_train_mode_not_restored import TrainModeNotRestored
from trimtab.lint.tt726_retained_graph import RetainedGraph
from trimtab.lint.tt727_scaler_not_updated import ScalerNotUpdated
from trimtab.lint.tt728_missing_log_softmax import MissingLogSoftmax
from trimtab.lint.tt729_swapped_loss_arguments import SwappedLossArguments
from trimtab.lint.tt730_loss_built_with_tensors import LossBuiltWithTensors
from trimtab.lint.tt731_missing_call import MissingCall
from trimtab.lint.tt732_dropout_always_on import DropoutAlwaysOn
from trimtab.lint.tt733_optimizer_rebuilt import OptimizerRebuilt
from trimtab.lint.tt734_scheduler_never_stepped import SchedulerNeverStepped
from trimtab.lint.tt735_backward_without_step import BackwardWithoutStep
from trimtab.lint.tt736_clip_without_effect import ClipWithoutEffect
from trimtab.lint.tt737_accumulation_cleared import AccumulationCleared

__all__ = [
    "AccumulationCleared",
    "BackwardWithoutStep",
    "CheckResult",
    "ClipBeforeUnscale",
    "ClipWithoutEffect",
    "CutLoss",
    "DataWrite",
    "DecayOnAllParameters",
    "DoubleBackward",
    "DropoutAlwaysOn",
    "EvaluationWithoutEval",
    "EvaluationWithoutNoGrad",
    "GradientsClearedBeforeStep",
    "GraphKeptAlive",
    "HiddenParameters",
    "LayersReplacedAfterOptimizer",
    "LossBuiltWithTensors",
    "MissingCall",
    "MissingLogSoftmax",
    "MissingSigmoid",
    "MissingZeroGrad",
    "NoSetEpoch",
    "NumpyWorkerSeed",
    "OptimizerBeforeMove",
    "OptimizerRebuilt",
    "RetainedGraph",
    "ScalerNotUpdated",
    "ScheduleCadence",
    "SchedulerBeforeOptimizer",
    "SchedulerNeverStepped",
    "SigmoidBeforeBceWithLogits",
    "SoftmaxBeforeCrossEntropy",
    "Source",
    "SourceRule",
    "StepWithoutBackward",
    "SwappedLossArguments",
    "TrainModeNotRestored",
    "UndividedAccumulation",
    "UnscaledBackward",
    "UnsynchronisedBatchNorm",
    "apply_fixes",
    "check_command",
    "fix_source",
    "lint_function",
    "lint_paths",
    "lint_source",
]
