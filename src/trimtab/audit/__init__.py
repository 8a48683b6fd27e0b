"""Audits: whether a training function resumes exactly, and accumulates as it should."""

from trimtab.audit._accumulation import audit_accumulation
from trimtab.audit._audit import Audit
from trimtab.audit._audit_rule import AccumulationRule, ResumeRule
from trimtab.audit._comparison import Comparison
from trimtab.audit._resume import audit_resume
from trimtab.audit._split import SplitBatch
from trimtab.audit.tt801_weights_not_resumed import WeightsNotResumed
from trimtab.audit.tt802_buffers_not_resumed import BuffersNotResumed
from trimtab.audit.tt803_optimizer_not_resumed import OptimizerNotResumed
from trimtab.audit.tt804_group_settings_not_resumed import GroupSettingsNotResumed
from trimtab.audit.tt805_schedule_not_resumed import ScheduleNotResumed
from trimtab.audit.tt806_random_state_not_resumed import RandomStateNotResumed
from trimtab.audit.tt807_data_not_resumed import DataNotResumed
from trimtab.audit.tt808_mode_not_resumed import ModeNotResumed
from trimtab.audit.tt809_run_not_repeatable import RunNotRepeatable
from trimtab.audit.tt810_hidden_state_not_resumed import HiddenStateNotResumed
from trimtab.audit.tt811_steps_not_resumed import StepsNotResumed
from trimtab.audit.tt821_micro_batches_weighed_equally import MicroBatchesWeighedEqually
from trimtab.audit.tt822_micro_batches_clipped import MicroBatchesClipped
from trimtab.audit.tt823_accumulation_misscaled import AccumulationMisscaled
from trimtab.audit.tt824_batch_statistics_split import BatchStatisticsSplit
from trimtab.audit.tt825_accumulation_differs import AccumulationDiffers

__all__ = [
    "AccumulationDiffers",
    "AccumulationMisscaled",
    "AccumulationRule",
    "Audit",
    "BatchStatisticsSplit",
    "BuffersNotResumed",
    "Comparison",
    "DataNotResumed",
    "GroupSettingsNotResumed",
    "HiddenStateNotResumed",
    "MicroBatchesClipped",
    "MicroBatchesWeighedEqually",
    "ModeNotResumed",
    "OptimizerNotResumed",
    "RandomStateNotResumed",
    "ResumeRule",
    "RunNotRepeatable",
    "ScheduleNotResumed",
    "SplitBatch",
    "StepsNotResumed",
    "WeightsNotResumed",
    "audit_accumulation",
    "audit_resume",
]
