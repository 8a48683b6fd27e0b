import pytest

from trimtab.guard._reads import Read, reads_of

model = loss_fn = weight = None


def outer():
    x = y = self = None
    del_later = [x, y, self]

    def assigned_first():
        nonlocal x
        x = 1
        return x + y

    def assigned_later():
        nonlocal x
        z = x
        x = 1
        return z

    def own_attribute():
        self.logits = model(x)
        return loss_fn(self.logits, self.y)

    return {
        "in order": lambda: loss_fn(model(x), y),
        "attributes": lambda: self.loss(self.x, y.float()),
        "nested": lambda: sum(model(x) * v for v in y),
        "inner function": lambda: [lambda: loss_fn(x)],
        "default": lambda a=x, *, b=y: loss_fn(b, a),
        "twice": lambda: x + y + x,
        "assigned first": assigned_first,
        "assigned later": assigned_later,
        "own attribute": own_attribute,
    }, del_later


def show(read: Read) -> str:
    return f"{read.kind} {read.name}" + (f".{read.attribute}" if read.attribute else "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("in order", ["global loss_fn", "global model", "cell x", "cell y"]),
        ("attributes", ["cell self.loss", "cell self.x", "cell y.float"]),
        ("twice", ["cell x", "cell y"]),
        ("default", ["global loss_fn", "local b", "local a"]),
        ("inner function", ["global loss_fn", "cell x"]),
        ("assigned first", ["cell y"]),
        ("assigned later", ["cell x"]),
        ("own attribute", ["global model", "cell x", "global loss_fn", "cell self.y"]),
    ],
)
def test_reads_in_the_order_of_use(name, expected):
    functions, _ = outer()
    found = [show(r) for r in reads_of(functions[name].__code__)]
    known = [f for f in found if not f.startswith("local z")]
    assert known == expected


def test_code_inside_is_looked_into():
    functions, _ = outer()
    found = {show(r) for r in reads_of(functions["nested"].__code__)}
    assert {"global sum", "global model", "cell x", "cell y"} <= found
