import pytest

from trimtab.errors import ConfigError
from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order


def test_remedies_are_applied_in_order(make_setup):
    setup = make_setup()
    orders = [
        Order(action="set_learning_rate", args={"lr": 0.5}),
        Order(action="scale_learning_rate", args={"factor": 0.1}),
    ]

    edits = apply(setup, orders)

    assert [e.diff for e in edits] == ["learning rate: 0.01 -> 0.5", "learning rate: 0.5 -> 0.05"]
    assert setup.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_remedy_that_measures_is_given_the_sample(make_setup, task):
    setup = make_setup()
    pairs = [(x * 100 + 50, y) for x, y in task.pairs]

    edits = apply(setup, [Order(action="normalise_inputs")], pairs)

    assert [e.what for e in edits] == ["inputs"]


def test_unknown_action_is_an_error(make_setup):
    with pytest.raises(ConfigError, match=r"^There is no remedy 'pray'\. Known are: align"):
        apply(make_setup(), [Order(action="pray")])
