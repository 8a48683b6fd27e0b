import pytest
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt602_batchnorm_statistics_differ import BatchnormStatisticsDiffer

RULE = BatchnormStatisticsDiffer()
NAN = float("nan")


def run(make_history, differences, norm=nn.BatchNorm1d):
    values = {"replicas.buffer_difference": differences}
    model = nn.Sequential(nn.Linear(4, 4), norm(4))
    return make_history(len(differences), values, model=model)


def test_names_statistics_that_are_far_apart(make_history):
    history = run(make_history, [0.05, NAN, 0.4, NAN, 0.6])

    assert list(RULE.check(history)) == [
        Finding(
            code="TT602",
            name="batchnorm-statistics-differ",
            severity=Severity.WARNING,
            symptom=Symptom.SILENT_CONFIG_ERROR,
            site="1",
            step=3,
            what="the BatchNorm statistics of the processes differ by up to 0.5 of their norm",
            evidence=(
                Evidence(name="difference of a buffer between ranks", value=0.5, normal="<= 0.2"),
            ),
            cause="each process normalises by its own batch: the batches are small, or "
            "the ranks see different data, and BatchNorm is not synchronised",
            fix="call torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) before "
            "wrapping it, use GroupNorm in place of BatchNorm, and shuffle the "
            "data over all ranks",
            remedy=Fix(action="synchronise_batch_norm"),
        )
    ]


@pytest.mark.parametrize(
    ("differences", "norm"),
    [
        ([0.0, 0.0], nn.BatchNorm1d),
        ([0.1, 0.1], nn.BatchNorm1d),  # batches of some dozens
        ([0.4, NAN, 0.1], nn.BatchNorm1d),  # once
        ([NAN, NAN], nn.BatchNorm1d),
        ([0.4, 0.4], nn.LayerNorm),  # a buffer of another kind
    ],
)
def test_is_silent_on_statistics_that_agree(make_history, differences, norm):
    assert list(RULE.check(run(make_history, differences, norm))) == []
