import numpy as np
import pytest
import torch
from torch import nn

import trimtab
from trimtab.rules import Judge, diagnose_run
from trimtab.rules._diagnose_run import records
from trimtab.signals import load_run


@pytest.fixture
def run(tmp_path):
    """A run that was recorded, and the records as they were made."""
    made = []
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with trimtab.attach(model, optimizer, out=tmp_path / "run", watch=5, judge=False) as trim:
        trim.recorder.sinks.append(made.append)
        for _ in range(23):
            x = torch.randn(16, 6, generator=generator)
            trim.loss((model(x) - x.sum(1, keepdim=True)).square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
    return tmp_path / "run", made


def test_records_come_back_as_they_were_made(run):
    path, made = run

    read = list(records(load_run(path)))

    assert [r.step for r in read] == [r.step for r in made]
    for ours, theirs in zip(read, made, strict=True):
        assert ours.values["loss"] == pytest.approx(theirs.values["loss"], rel=1e-6)
        assert ours.tables.keys() == theirs.tables.keys() - {"histograms"}
        for name, (sites, columns) in ours.tables.items():
            assert list(sites) == list(theirs.tables[name][0])
            for signal, values in columns.items():
                np.testing.assert_allclose(values, theirs.tables[name][1][signal], rtol=1e-6)


def test_a_recorded_run_is_judged_as_a_live_one(run):
    path, made = run
    judge = Judge(rules=None)
    for record in made:
        judge.see(record)

    assert [f.code for f in diagnose_run(path)] == [f.code for f in judge.findings]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(trimtab.ConfigError, match="not the folder of a run"):
        diagnose_run(tmp_path)
