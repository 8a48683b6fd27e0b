"""Half precision."""

import ast

import pytest

from trimtab.lint import Source
from trimtab.lint._autocast import half_precision, is_half


@pytest.mark.parametrize(
    ("text", "half"),
    [
        ("torch.autocast('cuda', dtype=torch.float16)", True),
        ("torch.autocast('cuda', torch.half)", True),
        ("torch.autocast(device_type='cuda')", True),
        ("torch.cuda.amp.autocast()", True),
        ("torch.cuda.amp.autocast(enabled=use_amp)", True),
        ("torch.amp.autocast(device)", True),
        ("torch.autocast('cuda', dtype=torch.bfloat16)", False),
        ("torch.autocast('cuda', dtype=chosen)", False),
        ("torch.autocast('cpu')", False),
        ("torch.autocast(where)", False),
        ("torch.cuda.amp.autocast(enabled=False)", False),
        ("torch.autocast('cuda', dtype=named)", True),
    ],
)
def test_types(text, half):
    source = Source(
        "import torch\n"
        "device = 'cuda' if torch.cuda.is_available() else 'cpu'\n"
        "named = torch.float16\n"
        "chosen = torch.float16 if old else torch.bfloat16\n"
        f"with {text}:\n    model(x)\n"
    )
    (node,) = source.all(ast.With)

    assert is_half(source, node.items[0].context_expr) is half


def test_the_innermost_counts():
    source = Source(
        "import torch\n"
        "with torch.cuda.amp.autocast():\n"
        "    model(x)\n"
        "    with torch.autocast('cuda', enabled=False):\n"
        "        model(y)\n"
        "loss.backward()\n"
    )
    first, second = source.traces[0].of("forward")

    assert half_precision(source, first) is not None
    assert half_precision(source, second) is None
