import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.diagnosis import Diagnosis, diagnose
from trimtab.errors import ConfigError
from trimtab.findings import Selection, Severity, Symptom


class Net(nn.Module):
    """Has everything that a training run may leave changed."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU())
        self.head = nn.Linear(16, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.body(x))


@pytest.fixture
def net(env, make_model):
    """The same with Adam and a schedule, some steps into training."""
    env.model = make_model(Net())
    with torch.no_grad():
        env.model.body[1].weight.fill_(1.0)
    env.optimizer = torch.optim.Adam(env.model.parameters(), lr=1e-2)
    env.scheduler = torch.optim.lr_scheduler.OneCycleLR(env.optimizer, 1e-2, total_steps=500)
    for x, y in env.pairs[:2]:
        env.optimizer.zero_grad()
        env.loss_fn(env.model(x), y).backward()
        env.optimizer.step()
        env.scheduler.step()
    env.model.body[2].eval()
    env.model.body[0].bias.requires_grad_(False)
    return env


def raw(value):
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {k: raw(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [raw(v) for v in value]
    return value


def everything(env):
    model, optimizer = env.model, env.optimizer
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in model.modules()
    ]
    return {
        "model": raw(model.state_dict()),
        "calls": getattr(model, "calls", None),
        "params": [id(p) for p in model.parameters()],
        "grads": [(id(p.grad), raw(p.grad)) for p in model.parameters()],
        "trainable": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "optimizer": raw(optimizer.state_dict()),
        "attributes": sorted(vars(optimizer)),
        "hooks": (hooks, len(optimizer._optimizer_step_pre_hooks)),
        "after": len(optimizer._optimizer_step_post_hooks),
        "scheduler": None if env.scheduler is None else raw(env.scheduler.state_dict()),
        "random": (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            np.random.get_state()[2],  # noqa: NPY002
            random.getstate(),
        ),
        "batches": [(id(x), raw(x), id(y), raw(y)) for x, y in env.pairs],
    }


def run(env, body=None, **settings):
    given = {"steps": 25, "scheduler": env.scheduler, "train_step": body} | settings
    return diagnose(env.model, env.optimizer, env.loss_fn, env.pairs, **given)


def rough(model, optimizer, loss_fn, x, y):
    """Train, and disturb whatever can be disturbed."""
    x.add_(torch.rand(()).item() + random.random() + np.random.rand())  # noqa: NPY002
    model.train()
    model.requires_grad_(True)
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] *= 0.99
    return loss


@pytest.mark.parametrize("body", [None, rough])
def test_leaves_everything_as_it_was(net, body):
    before = everything(net)

    found = run(net, body)

    assert isinstance(found, Diagnosis)
    assert len(found.outcome.losses) == 25
    assert everything(net) == before


@pytest.mark.parametrize("name", ["error", "KeyboardInterrupt", "NaN", "trials"])
def test_leaves_everything_as_it_was_whatever_happens(net, name):
    calls = iter(range(1000))

    def body(model, optimizer, loss_fn, x, y):
        loss = rough(model, optimizer, loss_fn, x, y)
        if next(calls) == 4:
            if name == "error":
                raise RuntimeError
            if name == "KeyboardInterrupt":
                raise KeyboardInterrupt
            if name == "NaN":
                with torch.no_grad():
                    model.head.weight.fill_(float("nan"))
        if name == "trials":  # they are made for a run that learns nothing
            optimizer.param_groups[0]["lr"] = 0.0
        return loss

    before = everything(net)

    if name == "KeyboardInterrupt":
        with pytest.raises(KeyboardInterrupt):
            run(net, body)
    else:
        found = run(net, body, selection=Selection(select=("TT411", "TT303", "TT430")))
        assert (found.log.error is not None) == (name == "error")
        assert bool(found.trials) == (name in {"NaN", "trials"})

    assert everything(net) == before


def test_leaves_what_the_loop_has_hold_of_as_it_was(net, make_model):
    critic = make_model(nn.Linear(8, 1))
    theirs = torch.optim.Adam(critic.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    scheduler, net.scheduler = net.scheduler, None
    seen = []

    def train_critic(x):
        theirs.zero_grad()
        critic(x).square().mean().backward()
        theirs.step()

    def body(model, optimizer, loss_fn, x, y):
        seen.append(
            (optimizer.param_groups[0]["lr"], float(critic.bias.detach()), scaler.get_scale())
        )
        train_critic(x)
        optimizer.zero_grad()
        loss = loss_fn(model(x), y) * 0  # learns nothing, so that trials are made
        scaler.scale(loss * float("inf")).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        return loss

    def state():
        parts = [critic.state_dict(), theirs.state_dict(), scheduler.state_dict()]
        return raw(parts), scaler.get_scale(), everything(net)

    before = state()

    found = run(net, body, selection=Selection(select=("TT411", "TT412")))

    assert state() == before
    assert found.trials == ()  # with another optimizer at work a loss says little
    rates = [seen[25 * i][0] for i in range(1 + len(found.trials))]
    factors = [t.factor for t in found.trials]
    assert rates[1:] == pytest.approx([rates[0] * f for f in factors])
    assert len({seen[25 * i][1:] for i in range(1 + len(found.trials))}) == 1


def test_keep_leaves_what_a_plain_loop_would(net, make_model):
    twin = make_model(Net())
    twin.load_state_dict(net.model.state_dict())
    twin.body[2].eval()
    twin.body[0].bias.requires_grad_(False)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=500)
    optimizer.load_state_dict(net.optimizer.state_dict())
    scheduler.load_state_dict(net.scheduler.state_dict())
    random_state = torch.get_rng_state()

    run(net, keep=True)

    for i in range(25):
        x, y = net.pairs[i % 12]
        optimizer.zero_grad()
        net.loss_fn(twin(x), y).backward()
        optimizer.step()
        scheduler.step()
    assert raw(net.model.state_dict()) == raw(twin.state_dict())
    assert raw(net.optimizer.state_dict()) == raw(optimizer.state_dict())
    assert raw(net.scheduler.state_dict()) == raw(scheduler.state_dict())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert net.model._forward_hooks == {}


@pytest.mark.slow
def test_the_seed_decides(net):
    net.model.train()

    def losses(seed):
        torch.rand(7)  # the caller's own random state makes no difference
        return run(net, seed=seed, steps=8).outcome.losses

    with torch.random.fork_rng():
        assert losses(1) == losses(1)
        assert losses(1) != losses(2)


def test_a_data_loader_gives_the_same_batches_and_gets_its_generator_back(net, generator):
    data = TensorDataset(torch.cat([x for x, _ in net.pairs]), torch.cat([y for _, y in net.pairs]))
    loader = DataLoader(data, batch_size=16, shuffle=True, generator=generator)
    before = generator.get_state()

    one, other = (
        diagnose(net.model, net.optimizer, net.loss_fn, loader, steps=15) for _ in range(2)
    )

    assert one.outcome.losses == other.outcome.losses
    assert torch.equal(generator.get_state(), before)


def test_a_generator_is_read_no_further_than_asked(net):
    source = iter(net.pairs)

    diagnose(net.model, net.optimizer, net.loss_fn, source, steps=5)

    assert next(source) is net.pairs[5]


# What is found.


@pytest.mark.parametrize("own", [False, True])
def test_a_healthy_run_is_healthy(env, correct, own):
    found = run(env, correct if own else None, steps=60)

    assert found.findings == [], str(found)
    assert found.symptoms == set()
    assert found.trials == ()


def never_cleared(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def test_a_fault_of_the_loop_comes_first_and_needs_no_trial(env, line_of):
    found = run(env, never_cleared)

    first = found.findings[0]
    assert (first.code, first.file) == ("TT420", __file__)
    assert first.line == line_of(never_cleared, "backward")
    assert Symptom.SILENT_CONFIG_ERROR in found.symptoms
    assert found.trials == ()


def test_a_fault_of_the_set_up_is_found_before_the_run(env):
    env.optimizer = torch.optim.SGD(env.model[0].parameters(), lr=0.1)

    found = run(env)

    assert found.findings[0].code == "TT001"
    assert "3.weight" in str(found)


@pytest.mark.slow
def test_a_rate_that_breaks_the_run_is_proven_by_trial(env, make_model):
    env.model = make_model(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)))
    env.optimizer = torch.optim.SGD(env.model.parameters(), lr=0.5)
    env.loss_fn = nn.MSELoss()
    env.pairs = [(x, x.sum(1, keepdim=True)) for x, _ in env.pairs]

    found = run(env, steps=60)

    first = found.findings[0]
    assert first.code == "TT411", str(found)
    assert first.remedy.args["factor"] < 1
    assert {Symptom.NAN, Symptom.DIVERGENCE} & found.symptoms
    assert any(t.kind == "lr" for t in found.trials)
    assert run(env, steps=60, trials=False).trials == ()


def test_nan_names_its_place(env):
    env.pairs[3][0][2, 1] = float("nan")

    found = run(env, trials=False)

    assert found.log.nonfinite_call == 4
    assert found.findings[0].step == 4
    assert Symptom.NAN in found.symptoms
    assert (found.log.nonfinite.kind, found.log.nonfinite.row) == ("input", 2)


def test_a_selection_silences_rules(env):
    ignored = run(env, never_cleared, selection=Selection(ignore=("TT420",)), trials=False)
    alone = run(env, never_cleared, selection=Selection(select=("TT420",)), trials=False)

    assert "TT420" not in {f.code for f in ignored.findings}
    assert {f.code for f in alone.findings} == {"TT420"}
    assert all(f.consequences == () for f in alone.findings)


def test_advice_is_no_finding(env):
    """One batch alone again and again is no fault, though worth a word."""
    found = run(env, steps=40)

    assert found.healthy
    assert all(f.severity is Severity.ADVICE for f in found.advice)


@pytest.mark.parametrize(
    "loss",
    [
        lambda f, out, y: f(out.squeeze(1), y.squeeze(1)),
        lambda f, out, y: f(out, y[:, 0].unsqueeze(1)),
        lambda f, out, y: f(out.flatten(), y.flatten()),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_a_loop_that_reshapes_its_targets_is_healthy(env, make_model, loss, flat):
    """A probe that does not reshape would compare shapes that broadcast."""
    env.model = make_model(nn.Linear(8, 1))
    env.optimizer = torch.optim.SGD(env.model.parameters(), lr=0.05)
    env.loss_fn = nn.MSELoss()
    columns = [(x, x[:, :2].sum(1, keepdim=True)) for x, _ in env.pairs]
    env.pairs = [(x, y.squeeze(1)) for x, y in columns] if flat else columns

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss_of = loss(loss_fn, model(x), y[:, None] if flat else y)
        loss_of.backward()
        optimizer.step()
        return loss_of

    found = run(env, body, steps=60)

    late = {f.code for f in found.findings if f.code >= "TT3"}
    assert late == set(), str(found)


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 3}, "model must be a Module, got int"),
        ({"optimizer": None}, "optimizer must be a Optimizer, got NoneType"),
        ({"loss_fn": "mse"}, "loss_fn must be callable, got str"),
        ({"batches": 4}, "batches must be an iterable"),
        ({"batches": []}, "batches is empty"),
        ({"batches": [torch.zeros(2)]}, "must be a pair"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": True}, "steps must be a whole number of at least 1, got True"),
        ({"scheduler": object()}, "scheduler must have state_dict and load_state_dict"),
    ],
)
def test_refuses_what_can_never_work(env, changes, message):
    given = {
        "model": env.model,
        "optimizer": env.optimizer,
        "loss_fn": env.loss_fn,
        "batches": env.pairs,
    } | changes
    before = everything(env)

    with pytest.raises(ConfigError) as error:
        diagnose(**given)

    assert message in str(error.value)
    assert everything(env) == before


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_refuses_a_model_without_a_shape(env):
    with pytest.raises(ConfigError, match="lazy parameters"):
        diagnose(nn.LazyLinear(3), env.optimizer, env.loss_fn, env.pairs)
