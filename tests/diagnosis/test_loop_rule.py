import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

import trimtab
from trimtab.diagnosis import LoopRule, diagnose
from trimtab.diagnosis._loop_rule import example_of, of, windows
from trimtab.diagnosis._trace import Event, Trace
from trimtab.findings import registered

LOOP_RULES = [r for r in registered("loop").values() if issubclass(r, LoopRule)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("rule", registered("loop").values(), ids=lambda r: r.code)
def test_example_triggers_the_rule(rule, monkeypatch):
    monkeypatch.setattr(trimtab, "diagnose", diagnose, raising=False)
    scope = {"__name__": "__main__"}

    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        exec(compile(rule.example, "<example>", "exec"), scope)

    found = scope["findings"]
    assert found
    assert rule.code in {f.code for f in found}, [str(f) for f in found]
    assert found[0].code == rule.code, [str(f) for f in found]


def test_example_is_a_program_around_the_body():
    text = example_of("\n    loss = 1\n", before="a = 2", steps=7)

    compile(text, "<example>", "exec")
    assert (
        "a = 2\n\ndef train_step(model, optimizer, loss_fn, x, y):\n    loss = 1\n    return"
        in text
    )
    assert "steps=7" in text


def test_windows_end_with_a_step(env):
    trace = Trace(env.model, env.optimizer)
    trace.events = [
        Event(k, 1) for k in ("zero", "step", "step", "backward", "clip", "step", "zero")
    ]

    assert [[e.kind for e in w] for w in windows(trace)] == [
        ["zero", "step"],
        ["step"],
        ["backward", "clip", "step"],
    ]
    assert [e.kind for e in of(trace.events, "clip", "backward")] == ["backward", "clip"]


def test_places_a_finding_only_where_there_is_a_file():
    rule = LOOP_RULES[0]()

    near = rule.at(Event("step", 1, "train.py", 3), what="it")
    far = rule.at(Event("step", 1), what="it")

    assert (near.site, near.file, near.line) == ("train_step", "train.py", 3)
    assert (far.site, far.file, far.line) == ("train_step", None, None)


# Loop bodies that are unusual, and right. Each factory may replace parts of `env`.


def gan(order):
    """Two optimizers take turns on two halves of one model, which the losses share."""

    def make(env, make_model):
        env.model = nn.ModuleDict({"G": make_model(nn.Linear(8, 8)), "D": make_model()})
        each = {k: torch.optim.Adam(m.parameters(), 1e-3) for k, m in env.model.items()}
        env.optimizer = each["G"]

        def discriminate(model, x):
            each["D"].zero_grad()
            scores = model["D"](model["G"](x).detach())
            loss = functional.softplus(scores).mean() + functional.softplus(-model["D"](x)).mean()
            loss.backward()
            each["D"].step()

        def generate(model, x):
            each["G"].zero_grad()
            loss = functional.softplus(-model["D"](model["G"](x))).mean()
            loss.backward()
            each["G"].step()
            return loss

        def body(model, optimizer, loss_fn, x, y):
            if order == "D first":
                discriminate(model, x)
                return generate(model, x)
            loss = generate(model, x)
            discriminate(model, x)
            return loss

        return body

    return make


def minimax(env, make_model):
    """One part minimises what the other maximises (Goodfellow et al. 2014, equation 1)."""
    fake = make_model(nn.Linear(8, 8))
    theirs = torch.optim.Adam(fake.parameters(), 1e-3)
    env.optimizer = theirs
    env.model, critic = fake, make_model()
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)

    def body(model, optimizer_of_model, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(critic(model(x).detach()), y)
        loss.backward()
        optimizer.step()
        theirs.zero_grad()
        loss = -loss_fn(critic(model(x)), y)
        loss.backward()
        theirs.step()
        return loss

    return body


def gan_of_one_half(env, make_model):
    """The model that is trained is the discriminator; the generator trains beside it."""
    generator = make_model(nn.Linear(8, 8))
    theirs = torch.optim.Adam(generator.parameters(), 1e-3)

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        real = loss_fn(model(x), y)
        real.backward()
        fake = functional.softplus(model(generator(x).detach())).mean()
        fake.backward()  # a second pass, of other examples
        optimizer.step()
        theirs.zero_grad()
        functional.softplus(-model(generator(x))).mean().backward()
        clip_grad_norm_(generator.parameters(), 1.0)
        theirs.step()
        return real + fake

    return body


def two_losses_of_the_loss_function(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward(retain_graph=True)
        auxiliary = loss_fn(model(x.flip(1)), y)
        auxiliary.backward()
        optimizer.step()
        return loss

    return body


def divided(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        for part, labels in zip(x.chunk(4), y.chunk(4), strict=True):
            loss = loss_fn(model(part), labels) / 4
            loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return body


def counted(env, make_model):
    calls = iter(range(1, 1000))

    def body(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        (loss / 3).backward()
        if next(calls) % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return body


def weighted_by_examples(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        for part, labels in zip(x.split([10, 6]), y.split([10, 6]), strict=True):
            loss = loss_fn(model(part), labels)
            (loss * len(part) / len(x)).backward()
        optimizer.step()
        return loss

    return body


def by_hand(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        for p in model.parameters():
            p.grad = None
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return body


def model_clears_after(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        model.zero_grad()
        return loss

    return body


def zeros(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad(set_to_none=False)
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return body


def scaled(enabled):
    def make(env, make_model):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, enabled=enabled)
        env.scheduler = None
        scheduler = torch.optim.lr_scheduler.StepLR(env.optimizer, 100)

        def body(model, optimizer, loss_fn, x, y):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=enabled):
                loss = loss_fn(model(x).float(), y)
            scaler.scale(loss).backward()  # overflows at first
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            return loss

        return body

    return make


def bf16(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_fn(model(x).float(), y)
        loss.backward()
        optimizer.step()
        return loss

    return body


def closure(kind):
    def make(env, make_model):
        few = {"max_iter": 3} if kind is torch.optim.LBFGS else {}
        env.optimizer = kind(env.model.parameters(), lr=0.1, **few)

        def body(model, optimizer, loss_fn, x, y):
            def closure():
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                loss.backward()
                clip_grad_norm_(model.parameters(), 1.0)
                return loss

            return optimizer.step(closure)

        return body

    return make


def gradient_penalty(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        x = x.clone().requires_grad_()
        output = model(x)
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        loss = loss_fn(output, y) + 0.1 * (slope.norm(dim=1) - 1).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return body


def epochs(env, make_model):
    scheduler = torch.optim.lr_scheduler.StepLR(env.optimizer, 1)
    calls = iter(range(1000))

    def body(model, optimizer, loss_fn, x, y):
        call = next(calls)
        if call and call % 3 == 0:
            scheduler.step()
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return body


def frozen_norms(env, make_model):
    env.model = make_model(
        nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    )
    env.optimizer = torch.optim.SGD(env.model.parameters(), lr=0.1)

    def body(model, optimizer, loss_fn, x, y):
        model.train()
        model[1].eval()
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return body


def evaluated_in_between(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            loss_fn(model(x), y)
        model.train()
        return loss

    return body


def another_in_the_same_body(env, make_model):
    critic = make_model(nn.Linear(8, 1))
    theirs = torch.optim.SGD(critic.parameters(), lr=0.01)

    def body(model, optimizer, loss_fn, x, y):
        value = critic(x).squeeze(1)
        theirs.zero_grad()
        value.square().mean().backward()
        theirs.step()
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        theirs.zero_grad()
        return loss

    return body


def sharpness_aware(env, make_model):
    """Two passes a step, the first only to find the worst point nearby (Foret et al. 2021)."""

    def body(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        loss.backward()
        with torch.no_grad():
            moves = [0.01 * p.grad / p.grad.norm() for p in model.parameters()]
            for p, move in zip(model.parameters(), moves, strict=True):
                p.add_(move)
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        with torch.no_grad():
            for p, move in zip(model.parameters(), moves, strict=True):
                p.sub_(move)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return body


def clipped_at_every_step(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss

    return body


def returns_nothing(env, make_model):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()

    return body


HEALTHY = {
    "GAN, D first": gan("D first"),
    "GAN, G first": gan("G first"),
    "GAN, D alone": gan_of_one_half,
    "minimax": minimax,
    "two losses": two_losses_of_the_loss_function,
    "accumulation, divided": divided,
    "accumulation, counted": counted,
    "accumulation, weighted": weighted_by_examples,
    "cleared by hand": by_hand,
    "cleared by the model": model_clears_after,
    "cleared to zeros": zeros,
    "scaler": scaled(enabled=True),
    "scaler, off": scaled(enabled=False),
    "bf16": bf16,
    "LBFGS": closure(torch.optim.LBFGS),
    "SGD with a closure": closure(torch.optim.SGD),
    "gradient penalty": gradient_penalty,
    "schedule by epochs": epochs,
    "frozen BatchNorm": frozen_norms,
    "evaluated in between": evaluated_in_between,
    "another optimizer": another_in_the_same_body,
    "sharpness-aware": sharpness_aware,
    "clipped at every step": clipped_at_every_step,
    "returns nothing": returns_nothing,
}


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("make", HEALTHY.values(), ids=HEALTHY)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_all_rules_are_silent_on_unusual_loops_that_are_right(
    env, watch, make_model, make, attached
):
    body = make(env, make_model)

    trace = watch(body, calls=40, attached=attached)

    assert trace.calls >= 8
    found = [str(f) for rule in LOOP_RULES for f in rule().check(trace)]
    assert found == []
