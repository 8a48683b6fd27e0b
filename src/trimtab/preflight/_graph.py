"""What autograd's graph of a loss tells: which leaves it reaches, and where norms stand."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimtab.preflight._loss_calls import operation_name


@dataclass(frozen=True)
class Graph:
    """A summary that keeps no memory of activations alive."""

    leaves: tuple[Tensor, ...]
    """Tensors that get a gradient."""
    norms_of_sums: int
    """Norms that read a residual sum."""
    closing_norms: int
    """Those of them past which the sum does not go on, as in post-norm."""

    @property
    def is_post_norm(self) -> bool:
        """Whether residual branches are normalised after the sum. A last norm alone is not."""
        return self.closing_norms >= 2 and 2 * self.closing_norms > self.norms_of_sums


def read_graph(loss: Tensor, norms: Iterable[tuple[Any, Any]]) -> Graph:
    """Walk the graph of a loss.

    Args:
        loss: With its graph.
        norms: The autograd nodes of each norm's input and output.
    """
    users: dict[Any, list[Any]] = defaultdict(list)
    leaves = []
    for node in walk(loss.grad_fn):
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves.append(leaf)
        for source, _ in node.next_functions:
            if source is not None:
                users[source].append(node)
    sums = [(i, o) for i, o in norms if i is not None and operation_name(i) == "Add" and users[i]]
    closing = sum(_ends_in(given, made, users) for given, made in sums)
    return Graph(tuple(leaves), len(sums), closing)


def walk(root: Any) -> Iterator[Any]:
    """Yield each autograd node from which a value was computed."""
    waiting, seen = [root], {root}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        for source, _ in node.next_functions:
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)


def _ends_in(given: Any, made: Any, users: dict[Any, list[Any]]) -> bool:
    """Return whether everything that reads `given` belongs to the norm that makes `made`."""
    inside, waiting = {made}, [made]
    while waiting:
        for source, _ in waiting.pop().next_functions:
            if source is not None and source is not given and source not in inside:
                inside.add(source)
                waiting.append(source)
    return all(user in inside for user in users[given])
