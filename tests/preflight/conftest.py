"""What the tests of preflight share: subjects, findings, and random state that is fixed."""

import pytest
import torch

from trimtab.findings import Finding
from trimtab.preflight._batch import as_batch
from trimtab.preflight._restored import restored
from trimtab.preflight._subject import Settings, Subject, UnavailableError


@pytest.fixture(autouse=True)
def seed():
    """PyTorch's own initialisers draw from its global state."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        yield


@pytest.fixture
def make_subject():
    """Build what rules judge."""

    def make(model, optimizer, loss_fn, batch, *, scheduler=None, **settings) -> Subject:
        optimizers = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        return Subject(
            model,
            [o for o in optimizers if o is not None],
            loss_fn,
            as_batch(batch, loss_fn),
            scheduler=scheduler,
            settings=Settings(**settings),
        )

    return make


@pytest.fixture
def judge(make_subject):
    """Run one rule alone; errors are errors here."""

    def run(rule, model, optimizer, loss_fn, batch, **settings) -> list[Finding]:
        subject = make_subject(model, optimizer, loss_fn, batch, **settings)
        with restored(model, loss_fn):
            try:
                return list(rule.check(subject))
            except UnavailableError:
                return []

    return run


@pytest.fixture
def classes(generator):
    """A batch of 3 classes that can be told apart: inputs (32, 8), labels (32,)."""
    x = torch.randn(32, 8, generator=generator)
    return x, x[:, :3].argmax(dim=1)


@pytest.fixture
def shown():
    """Everything that a finding says, as lines."""

    def show(finding: Finding) -> list[str]:
        lines = [f"{finding.severity}, {finding.symptom}: {finding}"]
        lines += [f"also {site}" for site in finding.also]
        lines += [str(evidence) for evidence in finding.evidence]
        return [*lines, finding.cause, finding.fix]

    return show
