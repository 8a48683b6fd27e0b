from trimtab.repair._remedy import Order


def test_order_in_words():
    assert str(Order(action="plain_loop")) == "plain_loop"
    order = Order(action="scale_learning_rate", args={"factor": 1 / 3})
    assert str(order) == "scale_learning_rate(factor=0.333)"
