import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt601_replicas_differ import ReplicasDiffer

RULE = ReplicasDiffer()
NAN = float("nan")


def run(make_history, differences):
    values = {"replicas.parameter_difference": differences}
    return make_history(len(differences), values)


def test_names_the_first_comparison_with_a_difference(make_history):
    history = run(make_history, [NAN, 0.0, NAN, 0.003, NAN, 0.05])

    assert list(RULE.check(history)) == [
        Finding(
            code="TT601",
            name="replicas-differ",
            severity=Severity.ERROR,
            symptom=Symptom.SILENT_CONFIG_ERROR,
            step=4,
            what="the processes hold different parameters: they differ by up to 0.05 "
            "of a parameter's norm",
            evidence=(Evidence(name="difference between ranks", value=0.05, normal="0"),),
            cause="the replicas began with different parameters, or took different "
            "steps: a seed for each rank with no broadcast, gradients that are "
            "not averaged on all ranks, a step skipped or weights changed on one "
            "rank only",
            fix="wrap the model in DistributedDataParallel after it is initialised "
            "and call it through the wrapper, let all ranks skip a step or none, "
            "and load checkpoints on all ranks",
            remedy=Fix(action="broadcast_parameters"),
        )
    ]


@pytest.mark.parametrize("difference", [NAN, 0.0])
def test_is_silent_on_replicas_that_agree_or_are_not_there(make_history, difference):
    assert list(RULE.check(run(make_history, [difference] * 6))) == []
