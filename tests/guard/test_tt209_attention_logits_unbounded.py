import pytest
import torch
from torch import nn

from trimtab.engine._rerun import Rerun, keep_up
from trimtab.findings import Severity, Symptom
from trimtab.guard import Change
from trimtab.guard.tt209_attention_logits_unbounded import AttentionLogitsUnbounded
from trimtab.nn import Attention

CAUSE = "Attention logits grew without bound and broke the run; capped, it goes on."
FIX = "normalise queries and keys (`qk_norm=True`), or cap the logits (`softcap=50`)"


def capped(change):
    return change.attention_cap is not None


def test_says_what_is_wrong(investigate):
    finding = investigate(capped, caps_attention=True).run().finding

    assert (finding.code, finding.name) == (
        AttentionLogitsUnbounded.code,
        "attention-logits-unbounded",
    )
    assert (finding.severity, finding.symptom) == (Severity.ERROR, Symptom.DIVERGENCE)
    assert finding.what == (
        "loss 90 and gradient norm 70, which do not happen with attention logits capped at 50"
    )
    assert (finding.cause, finding.fix, finding.remedy) == (CAUSE, FIX, None)


def test_is_silent_on_models_without_such_attention(investigate):
    assert investigate(capped).run().finding.code == "TT310"


def test_is_silent_where_half_the_rate_is_enough(investigate):
    case = investigate(lambda change: capped(change) or change.lr == 0.5, caps_attention=True)

    assert case.run().finding.code == "TT451"


@pytest.mark.parametrize(("softcap", "caps"), [(None, True), (30.0, False)])
def test_only_attention_without_a_cap_can_be_capped(softcap, caps):
    model = Attention(16, 2, softcap=softcap)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    assert Rerun(model, [optimizer]).caps_attention is caps


def test_the_cap_is_kept_up():
    model = nn.Sequential(Attention(16, 2), Attention(16, 2, softcap=30.0))

    assert keep_up(model, Change(attention_cap=50.0))

    assert [layer.softcap for layer in model] == [50.0, 30.0]
    assert not keep_up(model, Change(lr=0.5))
