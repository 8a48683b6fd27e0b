import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from trimtab.audit import audit_accumulation
from trimtab.engine import Stepper, TrainingSetup
from trimtab.errors import ConfigError, StateError
from trimtab.findings import Evidence, Finding, Fix, Selection


def names(audit):
    return [finding.name for finding in audit.findings]


def weighed(weights, clear=True):
    """Return a function that gives each micro-batch's mean loss a weight of its own."""

    def body(setup, micro_batches):
        if clear:
            setup.optimizer.zero_grad()
        sizes = [len(x) for x, _ in micro_batches]
        for (x, y), weight in zip(micro_batches, weights(sizes), strict=True):
            (setup.loss_fn(setup.model(x), y) * weight).backward()
        setup.optimizer.step()

    return body


def shares(sizes):
    return [n / sum(sizes) for n in sizes]


def test_the_stepper_is_right(built_wide):
    audit = audit_accumulation(built_wide)

    assert audit.ok, str(audit)
    assert audit.facts["micro-batches"] == "8+8+8+8 and 3+7+9+13"
    assert float(audit.facts["rounding error of a gradient"]) < 1e-6
    assert float(audit.facts["tolerance of a weight"]) < 1e-4


def clipped_once(setup):
    clip_grad_norm_(setup.model.parameters(), 1.0)


def clipped_to_one(setup):
    grads = [p.grad for p in setup.model.parameters()]
    norm = sum(g.square().sum() for g in grads).sqrt()
    torch._foreach_div_(grads, norm)


def test_a_loop_by_shares_is_right(accumulate, by_share):
    assert accumulate(by_share).ok
    assert accumulate(lambda *args: by_share(*args, before_step=clipped_once)).ok


def test_dropout_is_left_out(built_wide, by_share, accumulate):
    def build(seed):
        return built_wide(seed, nn.Dropout(0.5))

    def body(setup, micro_batches):
        setup.model.train()
        by_share(setup, micro_batches)

    assert accumulate(body, build).ok


def test_several_optimizers_are_alike(built_wide, by_share, accumulate):
    def build(seed):
        return built_wide(seed, optimizer=lambda p: torch.optim.AdamW(p, fused=True))

    assert accumulate(by_share, build).ok
    assert audit_accumulation(build).ok


def test_a_loss_scaler_is_taken_off(accumulate):
    def body(setup, micro_batches):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        setup.optimizer.zero_grad()
        for x, y in micro_batches:
            share = len(x) / sum(len(x) for x, _ in micro_batches)
            scaler.scale(setup.loss_fn(setup.model(x), y) * share).backward()
        scaler.step(setup.optimizer)
        scaler.update()

    assert accumulate(body).ok


def test_bfloat16_is_not_a_fault(accumulate):
    def body(setup, micro_batches):
        setup.optimizer.zero_grad()
        total = sum(len(x) for x, _ in micro_batches)
        for x, y in micro_batches:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = setup.model(x)
            (setup.loss_fn(outputs.float(), y) * len(x) / total).backward()
        setup.optimizer.step()

    assert accumulate(body).ok


def test_whole_finding_of_an_undivided_loss(accumulate):
    (found,) = accumulate(weighed(lambda sizes: [1] * len(sizes))).findings

    assert found == Finding(
        code="TT414",
        name="accumulation-not-divided",
        severity="error",
        symptom="silent_config_error",
        what="the gradient of 4 micro-batches is 4 times that of the whole batch",
        evidence=(Evidence(name="gradient over that of the whole batch", value=4.0, normal="1"),),
        cause="the loss was not divided by the number of micro-batches, which acts like a learning "
        "rate 4 times as high",
        fix="call (loss / 4).backward(), weigh unequal micro-batches by their examples or tokens, "
        "or use trimtab.Stepper(accumulate=4), which does both",
        remedy=Fix(action="divide_loss", args={"by": 4}),
    )


FAULTS = {
    "undivided": (lambda s: [1] * len(s), "accumulation-not-divided"),
    "undivided, by share": (lambda s: [n * len(s) / sum(s) for n in s], "accumulation-not-divided"),
    "mean of means": (lambda s: [1 / len(s)] * len(s), "micro-batches-weighed-equally"),
    "divided twice": (lambda s: [n / sum(s) / len(s) for n in s], "accumulation-misscaled"),
    "doubled": (lambda s: [2 * n / sum(s) for n in s], "accumulation-misscaled"),
    "negated": (lambda s: [-n / sum(s) for n in s], "accumulation-misscaled"),
    "one left out": (lambda s: [*shares(s)[:-1], 0], "accumulation-differs"),
    "one twice": (lambda s: [2 * shares(s)[0], *shares(s)[1:]], "accumulation-differs"),
}


@pytest.mark.parametrize(("weights", "name"), FAULTS.values(), ids=FAULTS)
def test_names_exactly_the_fault(accumulate, weights, name):
    assert names(accumulate(weighed(weights))) == [name]
    assert names(accumulate(weighed(weights), micro_batches=3)) == [name]


def test_names_gradients_that_are_left_over(accumulate):
    (found,) = accumulate(weighed(shares, clear=False)).findings

    assert (found.code, found.name) == ("TT420", "gradients-not-cleared")
    assert found.what == "the second window holds 1 times the gradient of the first"


def test_names_gradients_that_are_cleared_too_early(accumulate, by_share):
    def body(setup, micro_batches):
        for x, y in micro_batches:
            setup.optimizer.zero_grad()
            setup.loss_fn(setup.model(x), y).backward()
        setup.optimizer.step()

    (found,) = accumulate(body).findings

    assert (found.code, found.name) == ("TT421", "gradients-cleared-too-early")
    assert found.what == "only the last of 4 micro-batches is in the gradient"


def test_normalised_gradients_are_judged_by_their_shares(accumulate, by_share):
    assert accumulate(lambda *args: by_share(*args, before_step=clipped_to_one)).ok


def over_calls(num, divisor):
    """Return a setup whose loop body steps in one call of several."""

    def build(seed):
        torch.default_generator.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        calls = iter(range(1, 1000))

        def step(model, optimizer, loss_fn, x, y):
            loss = loss_fn(model(x), y)
            (loss / divisor).backward()
            if next(calls) % num == 0:
                optimizer.step()
                optimizer.zero_grad()
            return loss

        data = torch.randn(3, 32, 6)
        batches = [(x, x[:, :3].argmax(1)) for x in data]
        return TrainingSetup(model, optimizer, nn.CrossEntropyLoss(), batches, train_step=step)

    return build


def in_parts(num, divisor):
    """Return a setup whose loop body cuts each batch by itself."""

    def build(seed):
        setup = over_calls(1, 1)(seed)

        def step(model, optimizer, loss_fn, x, y):
            optimizer.zero_grad()
            for part, labels in zip(x.chunk(num), y.chunk(num), strict=True):
                loss = loss_fn(model(part), labels)
                (loss / divisor(len(x), len(part))).backward()
            optimizer.step()
            return loss

        setup.train_step = step
        return setup

    return build


def test_a_loop_body_that_counts_its_calls():
    assert names(audit_accumulation(over_calls(4, 1))) == ["accumulation-not-divided"]
    assert names(audit_accumulation(over_calls(4, 4))) == ["micro-batches-weighed-equally"]
    equal = Selection(ignore=("TT821",))
    assert audit_accumulation(over_calls(4, 4), selection=equal).ok


def test_a_loop_body_that_cuts_its_batch():
    assert audit_accumulation(in_parts(4, lambda whole, part: whole / part)).ok
    assert names(audit_accumulation(in_parts(4, lambda *_: 1))) == ["accumulation-not-divided"]
    assert names(audit_accumulation(in_parts(4, lambda *_: 4))) == ["micro-batches-weighed-equally"]


def test_a_loop_body_that_counts_otherwise_is_refused():
    with pytest.raises(StateError, match="4 micro-batches ended in 0 optimizer steps"):
        audit_accumulation(over_calls(8, 8), micro_batches=4)


def test_small_batches_are_joined():
    def build(seed):
        setup = over_calls(4, 4)(seed)
        setup.batches = [
            (x, y) for big in setup.batches for x, y in zip(*(t.split(3) for t in big), strict=True)
        ]
        setup.train_step = None
        return setup

    audit = audit_accumulation(build)

    assert audit.ok
    assert audit.facts["micro-batches"] == "5+5+5+5 and 2+4+6+8"


def tokens(seed, loss_fn):
    """Return a language model of sorts, whose rows hold different numbers of tokens."""
    torch.default_generator.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(11, 12), nn.Tanh(), nn.Linear(12, 11), nn.Flatten(0, 1))
    x = torch.randint(0, 11, (32, 5))
    y = torch.randint(0, 11, (32, 5))
    y[torch.arange(5) >= 1 + torch.arange(32)[:, None] // 7] = -100
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainingSetup(model, optimizer, loss_fn, [(x, y)])


def token_loss(outputs, targets):
    return functional.cross_entropy(outputs, targets.flatten())


def test_tokens_are_what_is_counted(accumulate):
    def build(seed):
        return tokens(seed, token_loss)

    def by_tokens(setup, micro_batches):
        total = sum(int((y >= 0).sum()) for _, y in micro_batches)
        stepper = Stepper(setup.model, setup.optimizer, accumulate=len(micro_batches),
                          schedule="constant", clip=None)  # fmt: skip
        assert total > 0
        for x, y in micro_batches:
            stepper.backward(setup.loss_fn(setup.model(x), y), weight=int((y >= 0).sum()))
            stepper.step()

    assert accumulate(by_tokens, build).ok
    equally = weighed(lambda sizes: [1 / len(sizes)] * len(sizes))
    assert names(accumulate(equally, build)) == ["micro-batches-weighed-equally"]
    (found,) = audit_accumulation(build).findings  # which weighs rows
    assert found.what == "4 micro-batches of 8, 8, 8, 8 examples count alike in the gradient"


WRONG = [
    ({"build": 3}, ConfigError, "build must be a function, got int"),
    ({"accumulate": 3}, ConfigError, "accumulate must be a function, got int"),
    ({"micro_batches": 1}, ConfigError, "micro_batches must be a whole number of at least 2, got"),
    ({"micro_batches": 20}, ConfigError, "have 96 examples together, and 20 unequal micro-ba"),
    ({"accumulate": lambda *_: None}, StateError, "4 micro-batches ended in 0 optimizer steps"),
    ({"build": lambda seed: None}, ConfigError, "must return a trimtab.engine.TrainingSetup, got"),
]


@pytest.mark.parametrize(("changes", "error", "message"), WRONG, ids=[m[:20] for *_, m in WRONG])
def test_refuses_what_cannot_work(built_wide, changes, error, message):
    with pytest.raises(error, match=message):
        audit_accumulation(**({"build": built_wide} | changes))


def test_refuses_lbfgs(built_wide):
    def build(seed):
        return built_wide(seed, optimizer=torch.optim.LBFGS)

    with pytest.raises(ConfigError, match="LBFGS calls its closure several times a step"):
        audit_accumulation(build)


def test_refuses_micro_batches_that_are_alike(built_wide):
    def build(seed):
        setup = built_wide(seed)
        setup.batches = [(torch.ones(32, 6), torch.zeros(32, dtype=torch.long))]
        return setup

    with pytest.raises(ConfigError, match="4 micro-batches are too alike to be told apart"):
        audit_accumulation(build)


def test_random_state_is_put_back(built_wide):
    before = torch.get_rng_state()

    audit_accumulation(built_wide)

    assert torch.equal(before, torch.get_rng_state())
