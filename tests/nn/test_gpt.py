import copy
import io
import itertools
import math
import pickle
import shutil

import pytest
import torch
from torch.nn import functional

from trimtab.errors import ConfigError, StabilityWarning
from trimtab.nn import GPT
from trimtab.nn._gpt import FEED_FORWARDS, GPT_RESIDUALS

VOCAB = 64


def make(seed=1, **settings):
    small = {"dim": 32, "depth": 2, "num_heads": 4, "max_len": 16}
    return GPT(VOCAB, **small | settings, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tokens(generator):
    return torch.randint(VOCAB, (4, 16), generator=generator)


def loss_of(model, tokens):
    logits = model(tokens[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


OPTIONS = [
    *(
        {"feed_forward": f, "residual": r}
        for f, r in itertools.product(FEED_FORWARDS, GPT_RESIDUALS)
    ),
    *(
        {"norm": n, "positions": p, "qk_norm": q, "tie_embeddings": t}
        for n, p, q, t in itertools.product(
            ("rms", "layer"), ("rope", "learned"), (True, False), (True, False)
        )
    ),
    *({"residual": r, "tie_embeddings": False} for r in GPT_RESIDUALS),
    {"attention_softcap": 50.0, "final_softcap": 30.0},
    {"dropout": 0.1, "drop_path": 0.2, "hidden": 40},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_loss_at_the_start_is_that_of_guessing_and_every_parameter_learns(options, tokens):
    model = make(**options)

    loss = loss_of(model, tokens)
    loss.backward()

    assert loss.item() == pytest.approx(math.log(VOCAB), abs=0.1)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("dim", [64, 512])
def test_loss_at_the_start_holds_at_any_width_even_for_repeated_tokens(dim, tie):
    model = GPT(256, dim=dim, depth=1, max_len=32, tie_embeddings=tie, generator=torch.Generator())
    repeated = torch.arange(64).view(64, 1).expand(64, 8)  # a tied head favours the input token
    counting = torch.arange(64).view(8, 8)

    for tokens in (repeated, counting):
        assert loss_of(model, tokens).item() == pytest.approx(math.log(256), abs=0.25)


@pytest.mark.parametrize("positions", ["rope", "learned"])
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_nothing_leaks_from_the_future(positions, softcap, tokens):
    model = make(positions=positions, attention_softcap=softcap)
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % VOCAB

    before, after = model(tokens), model(changed)

    torch.testing.assert_close(after[:, :9], before[:, :9])
    assert (after[:, 9:] != before[:, 9:]).any(-1).all()


def test_logits_are_float32_with_the_vocabulary_last(tokens):
    model = make(final_softcap=0.01)

    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)

    assert logits.shape == (4, 16, VOCAB)
    assert logits.dtype == torch.float32
    assert logits.abs().max() <= 0.01


def test_autocast_stays_close_to_float32(tokens):
    model = make()

    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, tokens)
    loss.backward()

    assert loss.item() == pytest.approx(loss_of(model, tokens).item(), abs=0.02)


def test_tied_embeddings_are_one_parameter():
    tied, untied = make(), make(tie_embeddings=False)

    sizes = [sum(p.numel() for p in m.parameters()) for m in (tied, untied)]

    assert sizes[1] - sizes[0] == VOCAB * 32
    assert not [name for name in tied.state_dict() if "head" in name]
    # every token's logit reads the embedding, so every row learns, seen or not
    loss_of(tied, torch.zeros(1, 4, dtype=torch.int64)).backward()
    assert (tied.embedding.weight.grad.abs().sum(1) > 0).all()


def test_the_generator_decides_the_weights(tokens):
    assert torch.equal(make()(tokens), make()(tokens))
    assert not torch.equal(make()(tokens), make(seed=2)(tokens))


def test_depth_scales_residual_outputs_as_in_gpt2():
    model = make(dim=64, depth=8)

    for block in model.blocks:
        assert block.attention.branch.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
        for proj in (block.attention.branch.out_proj, block.feed_forward.branch.down_proj):
            assert proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)


def test_drop_path_grows_with_depth():
    model = make(depth=4, drop_path=0.2)

    rates = [block.attention.regularize[0].p for block in model.blocks]

    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2])


def test_survives_copy_pickle_and_state_dict(tokens):
    model = make()
    expected = model(tokens)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = make(seed=2)
    loaded.load_state_dict(torch.load(file))

    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(twin(tokens), expected)


def test_trains_on_a_repeating_sequence(generator):
    model = make(depth=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = (torch.arange(17) * 5 % VOCAB).expand(2, -1)

    for _ in range(40):
        loss = loss_of(model, tokens[:, :16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert loss.item() < 0.2
    out = model.generate(tokens[:, :4], 8, temperature=0)
    assert torch.equal(out, tokens[:, :12])


def test_generate_samples_past_the_model_length(generator):
    model = make()

    out = model.generate(torch.zeros(1, 1, dtype=torch.int64), 20, top_k=5, generator=generator)

    assert out.shape == (1, 21)


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_a_sequence_past_the_maximum_is_an_error(positions):
    with pytest.raises(ConfigError, match="17 positions is longer than max_len=16"):
        make(positions=positions)(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 30}, "dim=30 and num_heads=4"),
        ({"dim": 12}, "head_dim must be even"),
        ({"depth": 0}, "depth must be"),
        ({"max_len": 0}, "max_len must be"),
        ({"hidden": 0}, "hidden must be"),
        ({"feed_forward": "swigl"}, "Did you mean 'swiglu'"),
        ({"norm": "batch"}, "norm must be one of layer, rms"),
        ({"positions": "sine"}, "positions must be one of learned, rope"),
        ({"residual": "prenorm"}, "Did you mean 'pre_norm'"),
        ({"residual": "highway"}, "residual must be one of"),
        ({"dropout": 1.1}, "dropout is a probability"),
        ({"drop_path": -0.1}, "drop_path is a probability"),
        ({"attention_softcap": 0.0}, "attention_softcap must be"),
        ({"final_softcap": 0.0}, "final_softcap must be"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_refuses_an_empty_vocabulary():
    with pytest.raises(ConfigError, match="vocab_size must be"):
        GPT(0)


def test_deep_post_norm_warns():
    with pytest.warns(StabilityWarning, match="post_norm with 18 layers"):
        make(residual="post_norm", depth=18)


def test_the_weights_can_be_drawn_after_the_meta_device(tokens):
    with torch.device("meta"):
        model = make()
    assert all(p.is_meta for p in model.parameters())

    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.initialize_(torch.Generator().manual_seed(1))

    assert torch.equal(model(tokens), make()(tokens))


@pytest.mark.parametrize("options", [{}, {"attention_softcap": 50.0, "residual": "layer_scale"}])
def test_traces_into_one_graph(options, tokens):
    model = make(**options)
    compiled = torch.compile(model, fullgraph=True, backend="eager")

    torch.testing.assert_close(compiled(tokens), model(tokens))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it compiles
def test_compiles_forward_and_backward(tokens):
    model = make(depth=1)
    compiled = torch.compile(model, fullgraph=True)
    loss_of(model, tokens).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    loss_of(compiled, tokens).backward()

    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-3)
