import numpy as np

from trimtab.report._maps import pack_maps, unit_of
from trimtab.report._runs import RunData
from trimtab.signals import RunWriter


def test_all_signals_of_all_layers_have_a_heat_map(make_run):
    packed = pack_maps([RunData.load(make_run(num_layers=8))])
    names = {m["name"] for m in packed["maps"]}
    assert {"gradient.norm", "update.ratio", "activation.rms", "attention.entropy"} <= names
    assert packed["first_maps"] == [
        "parameter:gradient.norm",
        "module:activation.rms",
        "module:activation.dead_fraction",
        "parameter:update.ratio",
    ]
    dead = next(m for m in packed["maps"] if m["name"] == "activation.dead_fraction")
    assert dead["rows"] == [4, 5, 6, 7]  # the others have no value
    assert packed["follow"][0] == "parameter"


def test_sites_of_two_runs_are_joined(make_run):
    runs = [make_run("a", num_layers=4), make_run("b", num_layers=5, first_site="stem")]
    packed = pack_maps([RunData.load(run) for run in runs])
    assert packed["sites"]["module"] == [
        "embed",
        "blocks.0.attention.q_proj",
        "blocks.0.attention.out_proj",
        "blocks.0.feed_forward.up",
        "stem",
        "blocks.1.norm",
    ]


def test_a_model_of_many_layers_has_coarser_maps(make_run):
    few = pack_maps([RunData.load(make_run("few", num_steps=1000, num_layers=10, every=5))])
    many = pack_maps([RunData.load(make_run("many", num_steps=1000, num_layers=300, every=5))])
    assert few["maps"][0]["runs"][0]["note"] == "200 records; a cell is one of them."
    assert many["maps"][0]["runs"][0]["note"] == "A cell is the largest of 3 records."


def test_what_is_all_one_value_does_not_come_first(tmp_path):
    writer = RunWriter(tmp_path / "run", info={})
    for step in range(3):
        columns = {"activation.rms": [1.0, 2.0], "activation.dead_fraction": [0.0, 0.0]}
        columns = {name: np.array(values) for name, values in columns.items()}
        writer.append("modules", step, columns, ["a", "b"])
    writer.close()
    packed = pack_maps([RunData.load(tmp_path / "run")])
    assert packed["first_maps"] == ["module:activation.rms"]
    assert len(packed["maps"]) == 2
    assert packed["follow"] == ("module", "a")


def test_units():
    assert unit_of("parameter", "gradient.norm") == "gradient"
    assert unit_of("parameter", "of.my.own") == ""
