"""Which calls matter."""

import pytest

from trimtab.lint import Source

HEAD = "'.step'\nimport torch\nfrom torch.nn.utils import clip_grad_norm_\n"


def events(text):
    (trace,) = Source(HEAD + text + "\n").traces
    return [
        (e.kind, e.key, e.via or e.detail)
        for e in trace.events
        if e.kind not in {"call", "forward"}
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss.backward()", ("backward", "", "")),
        ("loss_fn(model(x)).backward()", ("backward", "", "")),
        ("torch.autograd.backward(loss)", ("backward", "", "")),
        ("scaler.scale(loss).backward()", ("backward", "scaler", "scaler")),
        ("s = scaler.scale(loss)\ns.backward()", ("backward", "scaler", "scaler")),
        ("cast(T, scaler.scale(loss)).backward()", ("backward", "scaler", "scaler")),
        ("accelerator.backward(loss)", ("backward", "accelerator", "framework")),
        ("model_engine.backward(loss)", ("backward", "model_engine", "framework")),
        ("self.manual_backward(loss)", ("backward", "", "framework")),
        ("optimizer.step()", ("step", "optimizer", "")),
        ("scaler.step(optimizer)", ("step", "optimizer", "scaler")),
        ("model_engine.step()", ("step", "model_engine", "framework")),
        ("lr_scheduler.step()", ("schedule", "lr_scheduler", "")),
        ("optimizer.zero_grad()", ("zero", "optimizer", "")),
        ("model.zero_grad()", ("zero", "model", "")),
        ("p.grad = None", ("zero", "", "")),
        ("p.grad.zero_()", ("zero", "", "")),
        ("scaler.unscale_(optimizer)", ("unscale", "optimizer", "")),
        ("clip_grad_norm_(model.parameters(), 1.0)", ("clip", "", "")),
        ("torch.nn.utils.clip_grad_value_(ps, 1.0)", ("clip", "", "")),
        ("p.grad.data.clamp_(-1, 1)", ("clip", "", "")),
        ("accelerator.clip_grad_norm_(ps, 1.0)", ("clip", "accelerator", "framework")),
        ("scaler.update()", ("update", "scaler", "")),
        ("model.eval()", ("mode", "model", "eval")),
        ("model.train()", ("mode", "model", "train")),
        ("model.train(False)", ("mode", "model", "eval")),
        ("model.train(was_training)", ("mode", "model", "unknown")),
        ("model.module.eval()", ("mode", "model", "eval")),
        ("optimizer.step", ("step", "optimizer", "")),
    ],
)
def test_what_a_statement_is(text, expected):
    assert events(text)[-1] == expected


@pytest.mark.parametrize(
    "text",
    [
        "env.step(action)",
        "metric.update(loss)",
        "x.clamp_(0, 1)",
        "profiler.step()",
        "ema.update()",
        "pandas.eval('a')",
    ],
)
def test_what_is_nothing(text):
    assert events(text) == []


def test_apex_scales_by_itself():
    text = "with amp.scale_loss(loss, optimizer) as scaled_loss:\n    scaled_loss.backward()"

    assert events(text) == [("backward", "", "framework")]
