"""Rules of a user's own."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from trimtab.findings import Symptom
from trimtab.preflight import LiveRule, preflight


@dataclass(frozen=True, kw_only=True)
class NoBias(LiveRule):
    """A model without biases."""

    code: ClassVar[str] = "MY001"
    name: ClassVar[str] = "no-bias"
    symptom: ClassVar[Symptom] = Symptom.SLOW_CONVERGENCE

    def check(self, subject):
        if not any(n.endswith("bias") for n in subject.parameters):
            yield self.finding(what="there is no bias")


def test_runs_beside_the_others(classes):
    model = nn.Linear(8, 3, bias=False)

    result = preflight(
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
        rules=[NoBias()],
    )

    assert [str(f) for f in result.findings] == ["MY001 no-bias: there is no bias"]
    assert NoBias.scope == "live"


def test_has_to_say_how_it_judges():
    with pytest.raises(TypeError, match="check"):
        LiveRule()
