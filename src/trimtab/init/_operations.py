"""What a model computes, as a graph that says of each operation only what matters here."""

from collections import deque
from dataclasses import dataclass, field

from torch import nn

from trimtab.init._gains import SQUASHERS, Activation

INPUT = "input"
LINEAR = "linear"
NORM = "norm"
OUTPUT = "output"
UNKNOWN = "unknown"
End = Activation | str
Ends = frozenset[End]

_ADDS = frozenset({"add", "iadd", "isub", "radd", "sub"})
_STOPS = frozenset(
    {
        "addbmm", "addmm", "addmv", "baddbmm", "bilinear", "bmm", "convolution", "convtranspose1d",
        "convtranspose2d", "convtranspose3d", "conv1d", "conv2d", "conv3d", "dot", "einsum",
        "embedding", "embeddingbag", "linear", "matmul", "mm", "multiheadattentionforward", "mv",
        "scaleddotproductattention",
    }
)  # fmt: skip
_SIDE_VIEWS = frozenset(
    {"accumulategrad", "device", "dim", "dtype", "ndim", "numel", "shape", "size"}
)


@dataclass(frozen=True)
class Surroundings:
    """What a layer reads and what it feeds, over all its calls."""

    before: Ends
    """Activations, `INPUT`, `LINEAR` or `NORM`."""
    after: Ends
    """Activations, `LINEAR`, `OUTPUT` or `UNKNOWN`."""

    def __or__(self, other: "Surroundings") -> "Surroundings":
        """Join what was seen in two calls."""
        return Surroundings(self.before | other.before, self.after | other.after)


@dataclass(eq=False)
class Operation:
    """One operation; `role` says how a search passes it.

    `"layer"` and `"stop"` end it, `"activation"` is what it looks for, `"norm"` and `"add"`
    let it pass but are remembered, `"input"` and `"output"` are the ends of the model,
    `"side"` is no signal (a shape, a parameter), `"pass"` is everything else.
    """

    role: str
    activation: Activation | None = None
    module: nn.Module | None = None
    beyond: Ends | None = None
    inputs: list["Operation"] = field(default_factory=list)
    users: list["Operation"] = field(default_factory=list)

    def feed(self, user: "Operation") -> None:
        """Add an edge from this operation to another."""
        self.users.append(user)
        user.inputs.append(self)


def role_of(name: str) -> str:
    """Return the role of an operation of that plain name that is no activation."""
    if name in _ADDS:
        return "add"
    if name in _STOPS or name.startswith(("scaleddotproduct", "cudnnrnn", "mkldnnrnn")):
        return "stop"
    if "norm" in name and name != "norm":
        return "norm"
    return "side" if name in _SIDE_VIEWS else "pass"


def find_ends(start: Operation) -> Ends:
    """Find what an operation's output meets first, along every way that leads from it.

    Dropout, shapes, pooling, products and norms are passed. A residual sum is passed too.
    The model's output counts as such only if no norm and no residual sum lies before it,
    since then this layer alone does not decide the output's size. tanh, sigmoid and softmax
    right before the output belong to the output.

    Args:
        start: Usually a layer.

    Returns:
        Activations, `LINEAR` for another layer or a product of matrices, `OUTPUT`.
    """
    ends: set[End] = set()
    waiting = list(start.users)
    seen: set[int] = set()
    while waiting:
        step = waiting.pop()
        if id(step) in seen:
            continue
        seen.add(id(step))
        if step.role == "norm" or (step.role == "add" and _is_residual(start, step)):
            ends |= _ends_beyond(step)
        elif step.activation is not None:
            ends.add(OUTPUT if _ends_model(step) else step.activation)
        elif step.role == "output":
            ends.add(OUTPUT)
        elif step.role in {"layer", "stop"}:
            ends.add(LINEAR)
        elif step.role != "side":
            waiting += step.users
    return frozenset(ends)


def find_origins(start: Operation) -> Ends:
    """Find what a value was computed by last, apart from operations that are passed.

    Args:
        start: The operation that makes the value.

    Returns:
        Activations, `INPUT`, `LINEAR` or `NORM`; of several sources perhaps not all.
    """
    found: set[End] = set()
    waiting, seen = [start], {id(start)}
    while waiting and all(isinstance(end, Activation) for end in found):
        step = waiting.pop()
        if step.activation is not None:
            found.add(step.activation)
        elif step.role in {"layer", "stop"}:
            found.add(LINEAR)
        elif step.role in {"input", "norm"}:
            found.add(step.role)
        elif step.role != "side":
            fresh = [i for i in step.inputs if id(i) not in seen]
            seen.update(map(id, fresh))
            waiting += fresh
    return frozenset(found)


def _ends_model(step: Operation) -> bool:
    """Tell whether a squashing activation leads to the model's output and nowhere else."""
    squashes = step.activation is not None and step.activation.name in SQUASHERS
    return squashes and find_ends(step) == {OUTPUT}


def _is_residual(start: Operation, add: Operation) -> bool:
    """Tell whether a sum adds something that `start` itself was computed from."""
    sought = {id(step) for step in add.inputs if step.role != "side"}
    waiting = deque(start.inputs)
    seen: set[int] = set()
    while waiting:  # breadth first: in a residual block it is near
        step = waiting.popleft()
        if id(step) in sought:
            return True
        if id(step) not in seen:
            seen.add(id(step))
            waiting += step.inputs
    return False


def _ends_beyond(start: Operation) -> Ends:
    """Find what follows a norm or residual sum; kept, as deep networks ask often."""
    waiting = [start]
    while waiting:
        step = waiting[-1]
        open_users = [u for u in step.users if _is_passed(u) and u.beyond is None]
        if open_users and step.beyond is None:
            waiting += open_users
            continue
        waiting.pop()
        if step.beyond is None:
            step.beyond = frozenset().union(*map(_ends_at, step.users))
    assert start.beyond is not None
    return start.beyond


def _is_passed(step: Operation) -> bool:
    return step.activation is None and step.role in {"add", "norm", "pass"}


def _ends_at(step: Operation) -> Ends:
    if step.activation is not None:
        return frozenset({step.activation})
    if _is_passed(step):
        return step.beyond or frozenset()
    return frozenset() if step.role == "side" else frozenset({LINEAR})
