from pathlib import Path

import torch
from torch import nn

from trimtab import Watch, attach
from trimtab.nn import Attention
from trimtab.signals import SIGNALS, signal_table
from trimtab.signals._catalogue import names


def test_the_catalogue_is_what_a_record_holds():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Tanh(), Attention(4, 2))
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = torch.rand(p.shape, generator=g)  # all units live
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch = Watch(parameters=1, modules=1, histograms=1)
    with attach(model, optimizer, out=None, watch=watch, judge=False) as trim:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 3, 4)).square().mean().backward()
            optimizer.step()
    record = trim.history[-1]
    assert set(record.values) == set(names("step"))
    for family, table in (("parameter", "parameters"), ("module", "modules")):
        assert tuple(record.tables[table][1]) == names(family)
    assert tuple(record.tables["histograms"][1]) == names("histogram")


def test_names_are_unique_within_a_family_and_read_subject_quantity():
    pairs = [(s.family, s.name) for s in SIGNALS]
    assert len(set(pairs)) == len(pairs)
    for signal in SIGNALS:
        assert signal.name == signal.name.lower()
        assert signal.cost in {"free", "sampled", "exact"}
        assert signal.unit
        assert signal.meaning


def test_the_table_has_a_row_for_each():
    lines = signal_table().splitlines()
    assert len(lines) == 2 + len(SIGNALS)
    assert all(line.count(" | ") == 4 for line in lines)
    assert "`update.ratio`" in signal_table()


def test_the_documentation_has_the_table_of_today():
    page = Path(__file__).parents[2] / "docs" / "reference" / "signals.md"

    assert signal_table() in page.read_text(encoding="utf-8")
