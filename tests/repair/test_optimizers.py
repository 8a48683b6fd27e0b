import torch
from torch import nn

from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order


def once(setup, action, **args):
    return [e.diff for e in apply(setup, [Order(action=action, args=args)])]


def adam(**settings):
    return lambda params: torch.optim.Adam(params, **settings)


def test_usual_settings(make_setup):
    setup = make_setup(optimizer=adam(lr=1e-3, betas=(0.999, 0.5), eps=1.0))
    assert once(setup, "usual_settings") == [
        "optimizer's betas: (0.999, 0.5) -> (0.9, 0.999)",
        "optimizer's eps: 1.0 -> 1e-08",
    ]
    assert once(setup, "usual_settings") == []


def test_weight_decay_epsilon_and_beta(make_setup):
    setup = make_setup(optimizer=adam(lr=1e-3, weight_decay=1.0))
    assert once(setup, "set_weight_decay", value=0.1) == ["optimizer's weight_decay: 1.0 -> 0.1"]
    assert once(setup, "set_eps", eps=1e-10) == ["optimizer's eps: 1e-08 -> 1e-10"]
    assert once(setup, "set_beta2") == ["optimizer's betas: (0.9, 0.999) -> (0.9, 0.95)"]
    assert once(setup, "set_eps", eps=1e-10) == []


def test_split_moves_vectors_into_a_group_without_decay(make_setup):
    setup = make_setup(optimizer=adam(lr=1e-3, weight_decay=0.1))
    assert once(setup, "split_weight_decay") == [
        "weight decay of biases and norms: as of the weights -> 0"
    ]
    decayed, plain = setup.optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [2, 2]
    assert [p.ndim for p in plain["params"]] == [1, 1]
    assert (decayed["weight_decay"], plain["weight_decay"], plain["lr"]) == (0.1, 0.0, 1e-3)
    assert once(setup, "split_weight_decay") == []


def test_optimizer_gets_the_present_parameters_and_no_others(make_setup):
    setup = make_setup()
    setup.model[0] = nn.Linear(4, 16)

    assert once(setup, "repoint_optimizer") == [
        "parameters of the optimizer: 2 tensors that the model does not have -> all trainable "
        "parameters of the model"
    ]

    held = {id(p) for g in setup.optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in setup.model.parameters()}
    assert once(setup, "repoint_optimizer") == []


def test_frozen_parameters_are_left_out_when_repointing(make_setup):
    setup = make_setup(optimizer=lambda params: torch.optim.SGD(list(params)[:2], lr=0.1))
    setup.model[2].weight.requires_grad_(False)

    once(setup, "repoint_optimizer")

    assert setup.optimizer.param_groups[0]["params"][-1] is setup.model[2].bias
    assert len(setup.optimizer.param_groups[0]["params"]) == 3


def test_unfreeze(make_setup):
    setup = make_setup()
    setup.model[0].requires_grad_(False)
    assert once(setup, "unfreeze") == ["frozen parameters: 2 -> 0"]
    assert all(p.requires_grad for p in setup.model.parameters())
    assert once(setup, "unfreeze") == []


def test_adamw_in_place_of_another(make_setup):
    setup = make_setup(optimizer=lambda params: torch.optim.SGD(params, lr=3.0))
    setup.scheduler = torch.optim.lr_scheduler.StepLR(setup.optimizer, 1)
    assert once(setup, "use_adamw", lr=3e-3) == ["optimizer: SGD(lr=3) -> AdamW(lr=0.003)"]
    assert isinstance(setup.optimizer, torch.optim.AdamW)
    assert setup.scheduler is None
    assert len(setup.optimizer.param_groups[0]["params"]) == 4
