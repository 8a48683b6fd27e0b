"""All checks of preflight, in the order in which they run: what is static comes first."""

from typing import Final

from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight.tt001_parameters_without_optimizer import ParametersWithoutOptimizer
from trimtab.preflight.tt002_parameters_twice import ParametersTwice
from trimtab.preflight.tt003_stale_parameters import StaleParameters
from trimtab.preflight.tt004_decay_on_norms import DecayOnNorms
from trimtab.preflight.tt005_nothing_to_train import NothingToTrain
from trimtab.preflight.tt006_unsuited_initialisation import UnsuitedInitialisation
from trimtab.preflight.tt007_initial_loss import InitialLoss
from trimtab.preflight.tt008_output_loss_mismatch import OutputLossMismatch
from trimtab.preflight.tt009_broadcasting_loss import BroadcastingLoss
from trimtab.preflight.tt010_leak_across_examples import LeakAcrossExamples
from trimtab.preflight.tt011_leak_from_future import LeakFromFuture
from trimtab.preflight.tt012_cannot_overfit_batch import CannotOverfitBatch
from trimtab.preflight.tt013_wrong_mode import WrongMode
from trimtab.preflight.tt014_batchnorm_batch_of_one import BatchnormBatchOfOne
from trimtab.preflight.tt015_batchnorm_not_synchronised import BatchnormNotSynchronised
from trimtab.preflight.tt016_fp16_without_scaler import Fp16WithoutScaler
from trimtab.preflight.tt017_no_warmup import NoWarmup
from trimtab.preflight.tt018_batch_settings import BatchSettings
from trimtab.preflight.tt019_not_needed import NotNeeded
from trimtab.preflight.tt020_learning_rate_above_limit import LearningRateAboveLimit
from trimtab.preflight.tt021_zero_learning_rate import ZeroLearningRate
from trimtab.preflight.tt022_identical_units import IdenticalUnits
from trimtab.preflight.tt023_unreached_parameters import UnreachedParameters
from trimtab.preflight.tt024_failing_pass import FailingPass
from trimtab.preflight.tt025_batchnorm_momentum import BatchnormMomentum
from trimtab.preflight.tt026_dropout_in_evaluation import DropoutInEvaluation
from trimtab.preflight.tt502_nonfinite_batch import NonfiniteBatch
from trimtab.preflight.tt504_labels_out_of_range import LabelsOutOfRange
from trimtab.preflight.tt505_inputs_not_normalised import InputsNotNormalised
from trimtab.preflight.tt506_constant_labels import ConstantLabels

CHECKS: Final[tuple[type[LiveRule], ...]] = (
    ParametersWithoutOptimizer,
    ParametersTwice,
    StaleParameters,
    DecayOnNorms,
    NothingToTrain,
    UnsuitedInitialisation,
    InitialLoss,
    OutputLossMismatch,
    BroadcastingLoss,
    LeakAcrossExamples,
    LeakFromFuture,
    CannotOverfitBatch,
    WrongMode,
    BatchnormBatchOfOne,
    BatchnormNotSynchronised,
    Fp16WithoutScaler,
    NoWarmup,
    BatchSettings,
    NotNeeded,
    LearningRateAboveLimit,
    ZeroLearningRate,
    IdenticalUnits,
    UnreachedParameters,
    FailingPass,
    BatchnormMomentum,
    DropoutInEvaluation,
    NonfiniteBatch,
    LabelsOutOfRange,
    InputsNotNormalised,
    ConstantLabels,
)
"""By code; what they share is measured by whoever asks first."""
