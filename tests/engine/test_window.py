import pytest
import torch

from trimtab import ConfigError
from trimtab.engine._window import Window, check_weight


def test_equal_weights_count_as_one_exactly():
    window = Window()
    for _ in range(3):
        assert window.factor(7.0) == 1.0
        window.add(7.0, torch.tensor(2.0))
    assert window.divisor() == 3.0
    assert float(window.mean_loss()) == 2.0


def test_unequal_weights_make_a_weighted_mean():
    window = Window()
    factors = []
    for weight, loss in ((2.0, 1.0), (6.0, 5.0)):
        factors.append(window.factor(weight))
        window.add(weight, torch.tensor(loss))
    assert factors == [1.0, 3.0]
    assert window.divisor() == 4.0
    assert float(window.mean_loss()) == 4.0


def test_an_empty_first_micro_batch_is_no_reference():
    window = Window()
    window.add(0.0, torch.zeros(()))
    assert window.factor(4.0) == 1.0


@pytest.mark.parametrize("weight", [3, 3.0, torch.tensor(3), torch.tensor([3])])
def test_a_weight_may_be_a_number_or_a_tensor(weight):
    assert check_weight(weight) == 3.0


@pytest.mark.parametrize(
    "weight", [-1, float("inf"), float("nan"), torch.tensor(-2), torch.ones(2)]
)
def test_bad_weights_are_refused(weight):
    with pytest.raises(ConfigError):
        check_weight(weight)
