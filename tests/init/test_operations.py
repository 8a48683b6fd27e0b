import pytest

from trimtab.init._gains import Activation
from trimtab.init._operations import (
    INPUT,
    LINEAR,
    NORM,
    OUTPUT,
    Operation,
    find_ends,
    find_origins,
    role_of,
)

RELU, TANH = Activation("relu"), Activation("tanh")


def step(role="pass", *sources, activation=None):
    operation = Operation(role, activation)
    for source in sources:
        source.feed(operation)
    return operation


def start():
    return step("layer", step("input"))


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("add", "add"), ("linear", "stop"), ("scaleddotproductefficientattention", "stop"),
        ("nativelayernorm", "norm"), ("shape", "side"), ("dropout", "pass"), ("norm", "pass"),
    ],
)  # fmt: skip
def test_roles(name, role):
    assert role_of(name) == role


def test_passes_to_the_first_activation():
    layer = start()
    act = step("pass", step("norm", step("pass", layer)), activation=RELU)
    step("output", act)

    assert find_ends(layer) == {RELU}


def test_another_layer_and_the_output():
    layer = start()
    step("output", layer)
    assert find_ends(layer) == {OUTPUT}

    step("stop", step("pass", layer))
    assert find_ends(layer) == {OUTPUT, LINEAR}


def test_a_shape_leads_nowhere():
    layer = start()
    step("stop", step("side", layer))

    assert find_ends(layer) == set()


def test_an_output_behind_a_norm_is_none_of_this_layers():
    layer = start()
    step("output", step("norm", layer))

    assert find_ends(layer) == {LINEAR}


def test_an_output_behind_a_residual_sum_is_none_of_this_layers():
    source = step("input")
    layer = step("layer", step("pass", source))
    step("output", step("add", source, layer))

    assert find_ends(layer) == {LINEAR}


def test_a_sum_of_two_outputs_is_an_output():
    source = step("input")
    wide, deep = step("layer", source), step("layer", step("layer", source))
    step("output", step("add", wide, deep))

    assert find_ends(wide) == find_ends(deep) == {OUTPUT}


def test_squashing_belongs_to_the_output_only_at_the_end():
    layer = start()
    squash = step("pass", layer, activation=TANH)
    step("output", squash)
    assert find_ends(layer) == {OUTPUT}

    step("layer", squash)
    assert find_ends(layer) == {TANH}


def test_a_relu_at_the_end_is_no_output():
    layer = start()
    step("output", step("pass", layer, activation=RELU))

    assert find_ends(layer) == {RELU}


def test_origins():
    data, parameter = step("input"), step("side")
    act = step("pass", step("layer", data), activation=RELU)

    assert find_origins(data) == {INPUT}
    assert find_origins(step("norm", act)) == {NORM}
    assert find_origins(step("pass", act, parameter)) == {RELU}
    assert find_origins(step("add", act, step("pass", data, activation=TANH))) == {RELU, TANH}
    assert LINEAR in find_origins(step("add", act, step("stop", data)))


def test_ten_thousand_residual_blocks_take_no_recursion():
    stream = step("input")
    layers = []
    for _ in range(10_000):
        layers.append(step("layer", step("norm", stream)))
        stream = step("add", stream, step("pass", layers[-1]))
    step("output", stream)

    assert {find_ends(layer) for layer in layers} == {frozenset({LINEAR})}
