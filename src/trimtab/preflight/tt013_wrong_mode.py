"""TT013: dropout or BatchNorm in eval mode when training begins."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class WrongMode(LiveRule):
    """The model goes into training in eval mode, so dropout is off and BatchNorm frozen.

    Why: after `model.eval()` for a validation, or with a pretrained model that is delivered in eval
    mode, dropout does nothing and BatchNorm uses and keeps its old statistics.

    Measured: the mode of every dropout and BatchNorm module as preflight was called.

    Silent on: models without dropout and BatchNorm; parts that are frozen. BatchNorm alone in eval
    mode, as in fine-tuning, is advice.

    Fix: call `model.train()` before the training loop, and again after each validation.

    Source: Humbatova et al. 2020, arXiv:1910.11015 (taxonomy of real faults); Jiang et al.
    2025 (TrainCheck), arXiv:2506.14813.
    """

    code: ClassVar[str] = "TT013"
    name: ClassVar[str] = "wrong-mode"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 28
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)).eval()
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all modules that are in eval mode."""
        asleep = [n for n, m in subject.model.named_modules() if _matters(m) and not m.training]
        if not asleep:
            return
        whole = not subject.model.training
        yield self.finding(
            what=f"{'the model is' if whole else f'{len(asleep)} modules are'} in eval mode, with "
            f"dropout or BatchNorm in {len(asleep)} places",
            severity=Severity.WARNING if whole else Severity.ADVICE,
            site=asleep[0],
            also=tuple(asleep[1:]),
            evidence=(Evidence(name="modules in eval mode", value=len(asleep), normal="0"),),
            cause="Dropout does nothing in eval mode and BatchNorm uses its stored statistics; "
            + (
                "model.eval() was called, or the model was loaded in eval mode."
                if whole
                else "for BatchNorm that is usual in fine-tuning, and may be meant."
            ),
            fix="call model.train() before the training loop and after each validation",
        )


def _matters(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        own = list(module.parameters(recurse=False))
        return any(p.requires_grad for p in own) or not own
    return False
