"""diagnose: train for a while, judge, and say what is wrong."""

from trimtab.diagnosis._diagnose import diagnose
from trimtab.diagnosis._diagnosis import Diagnosis
from trimtab.diagnosis._loop_rule import LoopRule
from trimtab.diagnosis._outcome import Outcome
from trimtab.diagnosis._trials import Trial
from trimtab.diagnosis.tt411_learning_rate_too_high import LearningRateTooHigh
from trimtab.diagnosis.tt412_learning_rate_too_low import LearningRateTooLow
from trimtab.diagnosis.tt413_scaled_gradients_clipped import ScaledGradientsClipped
from trimtab.diagnosis.tt414_accumulation_not_divided import AccumulationNotDivided
from trimtab.diagnosis.tt420_gradients_not_cleared import GradientsNotCleared
from trimtab.diagnosis.tt421_gradients_cleared_too_early import GradientsClearedTooEarly
from trimtab.diagnosis.tt422_no_step import NoStep
from trimtab.diagnosis.tt423_no_backward import NoBackward
from trimtab.diagnosis.tt424_scheduler_out_of_order import SchedulerOutOfOrder
from trimtab.diagnosis.tt426_backward_not_scaled import BackwardNotScaled
from trimtab.diagnosis.tt427_trained_in_eval_mode import TrainedInEvalMode
from trimtab.diagnosis.tt428_loss_not_connected import LossNotConnected
from trimtab.diagnosis.tt429_clipped_after_step import ClippedAfterStep
from trimtab.diagnosis.tt430_loop_raises import LoopRaises
from trimtab.diagnosis.tt431_unusual_optimizer_settings import UnusualOptimizerSettings
from trimtab.diagnosis.tt432_clipped_to_nothing import ClippedToNothing
from trimtab.diagnosis.tt433_mostly_frozen import MostlyFrozen
from trimtab.diagnosis.tt434_unsafe_operation import UnsafeOperation
from trimtab.diagnosis.tt435_loss_negated import LossNegated
from trimtab.diagnosis.tt436_dropout_too_strong import DropoutTooStrong
from trimtab.diagnosis.tt507_labels_unrelated import LabelsUnrelated

__all__ = [
    "AccumulationNotDivided",
    "BackwardNotScaled",
    "ClippedAfterStep",
    "ClippedToNothing",
    "Diagnosis",
    "DropoutTooStrong",
    "GradientsClearedTooEarly",
    "GradientsNotCleared",
    "LabelsUnrelated",
    "LearningRateTooHigh",
    "LearningRateTooLow",
    "LoopRaises",
    "LoopRule",
    "LossNegated",
    "LossNotConnected",
    "MostlyFrozen",
    "NoBackward",
    "NoStep",
    "Outcome",
    "ScaledGradientsClipped",
    "SchedulerOutOfOrder",
    "TrainedInEvalMode",
    "Trial",
    "UnsafeOperation",
    "UnusualOptimizerSettings",
    "diagnose",
]
