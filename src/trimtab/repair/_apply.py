"""All remedies that a program can apply, by the name of their action."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from trimtab.engine import TrainingSetup
from trimtab.errors import ConfigError
from trimtab.repair._blocked import remove_norms, replace_softmax
from trimtab.repair._data import (
    align_batches,
    filter_nonfinite,
    join_batches,
    normalise_inputs,
    rescale_labels,
    scale_targets,
    shuffle_batches,
)
from trimtab.repair._dropout import follow_mode, set_dropout
from trimtab.repair._edit import Edit
from trimtab.repair._graph import keep_graph
from trimtab.repair._layers import (
    insert_norms,
    register_modules,
    reinitialise,
    replace_activation,
    set_batchnorm_momentum,
    shrink_head,
    train_mode,
)
from trimtab.repair._linear import insert_activations
from trimtab.repair._loops import clip_gradients, plain_loop, skip_nonfinite
from trimtab.repair._losses import (
    divide_loss,
    fit_output,
    match_shapes,
    mean_loss,
    turn_loss,
    usual_loss,
)
from trimtab.repair._optimizers import (
    repoint_optimizer,
    set_beta2,
    set_eps,
    set_weight_decay,
    split_weight_decay,
    unfreeze,
    use_adamw,
    usual_settings,
)
from trimtab.repair._precision import use_float32
from trimtab.repair._rates import (
    cap_learning_rate,
    drop_schedule,
    scale_learning_rate,
    set_learning_rate,
    warm_up,
)
from trimtab.repair._recurrent import gate_recurrence
from trimtab.repair._remedy import Order, Remedy
from trimtab.repair._rewards import scale_rewards
from trimtab.repair._shift import repeat_early

REMEDIES: Final[Mapping[str, Remedy]] = {
    "align_batches": align_batches,
    "cap_learning_rate": cap_learning_rate,
    "check_optimizer": repoint_optimizer,
    "check_param_groups": repoint_optimizer,
    "clear_gradients": plain_loop,
    "clip_gradients": clip_gradients,
    "divide_loss": divide_loss,
    "drop_schedule": drop_schedule,
    "filter_nonfinite": filter_nonfinite,
    "fit_output": fit_output,
    "follow_mode": follow_mode,
    "gate_recurrence": gate_recurrence,
    "initialise": reinitialise,
    "insert_activations": insert_activations,
    "insert_norms": insert_norms,
    "join_batches": join_batches,
    "keep_float32_master": use_float32,
    "keep_graph": keep_graph,
    "match_shapes": match_shapes,
    "mean_loss": mean_loss,
    "negate_loss": plain_loop,
    "normalise_inputs": normalise_inputs,
    "plain_loop": plain_loop,
    "register_modules": register_modules,
    "reinitialise": reinitialise,
    "remove_norms": remove_norms,
    "replace_activation": replace_activation,
    "replace_softmax": replace_softmax,
    "repeat_early": repeat_early,
    "repoint_optimizer": repoint_optimizer,
    "rescale_labels": rescale_labels,
    "scale_learning_rate": scale_learning_rate,
    "scale_rewards": scale_rewards,
    "scale_targets": scale_targets,
    "set_batchnorm_momentum": set_batchnorm_momentum,
    "set_beta2": set_beta2,
    "set_dropout": set_dropout,
    "set_eps": set_eps,
    "set_learning_rate": set_learning_rate,
    "set_precision": use_float32,
    "set_weight_decay": set_weight_decay,
    "shrink_head": shrink_head,
    "shuffle_batches": shuffle_batches,
    "skip_batch": align_batches,
    "skip_nonfinite": skip_nonfinite,
    "split_weight_decay": split_weight_decay,
    "stretch_schedule": drop_schedule,
    "train_mode": train_mode,
    "turn_loss": turn_loss,
    "unfreeze": unfreeze,
    "use_adamw": use_adamw,
    "use_float32": use_float32,
    "usual_loss": usual_loss,
    "usual_settings": usual_settings,
    "warm_up": warm_up,
    "zero_gradients": plain_loop,
}


def apply(
    setup: TrainingSetup, orders: Sequence[Order], sample: Sequence[tuple[Any, Any]] = ()
) -> list[Edit]:
    """Apply remedies to a fresh setup, one after another.

    Args:
        setup: Changed in place.
        orders: In the order in which they are applied.
        sample: Some of its batches, from which means and ranges are taken.

    Raises:
        ConfigError: There is no such remedy.
    """
    edits: list[Edit] = []
    for order in orders:
        if order.action not in REMEDIES:
            raise ConfigError(
                f"There is no remedy {order.action!r}. Known are: {', '.join(sorted(REMEDIES))}."
            )
        edits += REMEDIES[order.action](setup, replace(order, sample=sample))
    return edits
