"""What one rank adds to a checkpoint of several: its tensors, and the files they become."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimtab.checkpoint._manifest import shard_files
from trimtab.checkpoint._ranks import Ranks
from trimtab.checkpoint._safetensors import Chunks, serialise
from trimtab.checkpoint._shards import parts_to_write
from trimtab.checkpoint._store import to_json
from trimtab.checkpoint._tree import flatten, to_cpu
from trimtab.errors import ConfigError

Move = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One rank's tensors, where they are now, and everything about them that is no tensor."""

    model: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    """Of the shared state, `shared.NAME`, and of this rank's own, `own.NAME`."""
    documents: Mapping[str, bytes]
    names: Mapping[str, str]


def collect(
    model: Mapping[str, Tensor], state: Mapping[str, Any], own: Mapping[str, Any], ranks: Ranks
) -> Contribution:
    """Return what this rank writes; no tensor is copied or moved.

    Raises:
        ConfigError: A name is in both states, or something can only be pickled.
    """
    if twice := sorted(own.keys() & state.keys()):
        raise ConfigError(
            f"{twice[0]!r} is in state and in rank_state, which come back as one. Rename one of "
            "them."
        )
    weights_tree, weights = flatten(dict(model), Tensor.detach, shards=True)
    state_tree, shared = flatten(dict(state), Tensor.detach, shards=True)
    own_tree, own_tensors = flatten(dict(own), Tensor.detach)
    model_parts, model_index = parts_to_write(weights, rank=ranks.rank)
    state_parts, state_index = parts_to_write(shared, rank=ranks.rank)
    tensors = {f"shared.{n}": t for n, t in state_parts.items()}
    tensors |= {f"own.{n}": t for n, t in own_tensors.items()}
    names = shard_files(ranks.rank, ranks.count)
    index = {"model": model_index, "state": state_index, "own": own_tree}
    documents = {names["index"]: to_json(index)}
    if ranks.rank == 0:
        documents["state.json"] = to_json({"model": weights_tree, "state": state_tree})
    return Contribution(model=model_parts, state=tensors, documents=documents, names=names)


def move_all(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors on the CPU; those that are there already are not copied."""
    return {name: to_cpu(tensor) for name, tensor in tensors.items()}


def encode_contribution(
    part: Contribution, move_model: Move = move_all, move_state: Move = move_all
) -> dict[str, Chunks]:
    """Return the content of each file that this rank writes, as a view of the moved tensors.

    Args:
        part: What `collect` returned.
        move_model: Brings the model's tensors to the CPU; they may still be on their way when it
            returns.
        move_state: Likewise for all others.

    Raises:
        ConfigError: A tensor is of a kind that safetensors cannot hold.
    """
    files: dict[str, Chunks] = {
        part.names["model"]: serialise(move_model(part.model), {"format": "pt"}),
        part.names["state"]: serialise(move_state(part.state)),
    }
    return files | {name: [text] for name, text in part.documents.items()}
