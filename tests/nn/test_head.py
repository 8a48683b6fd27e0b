import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.nn import Head, TiedHead


@pytest.mark.parametrize("cap", [None, 2.0])
def test_matches_the_formula(cap, generator):
    head = Head(6, 11, bias=True, softcap=cap)
    x = torch.randn(4, 5, 6, generator=generator)

    expected = x.double() @ head.proj.weight.double().T + head.proj.bias.double()
    if cap is not None:
        expected = cap * torch.tanh(expected / cap)

    torch.testing.assert_close(head(x), expected.float())


def test_logits_are_float32_under_autocast_and_in_bfloat16():
    head = Head(6, 11)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.ones(2, 6)).dtype == torch.float32
    assert head.bfloat16()(torch.ones(2, 6, dtype=torch.bfloat16)).dtype == torch.float32
    assert head.double()(torch.ones(2, 6).double()).dtype == torch.float64


@pytest.mark.parametrize("cap", [None, 2.0])
def test_a_tied_head_uses_the_given_weight_with_every_second_sign_turned(cap, generator):
    head = TiedHead(5, softcap=cap)
    x, weight = torch.randn(2, 5, generator=generator), torch.randn(11, 5, generator=generator)

    expected = (x.double() * torch.tensor([1, -1, 1, -1, 1])) @ weight.double().T
    if cap is not None:
        expected = cap * torch.tanh(expected / cap)

    torch.testing.assert_close(head(x, weight), expected.float())
    assert not list(head.parameters())
    assert not head.state_dict()


@pytest.mark.parametrize("dim", [256, 768])
def test_a_tied_head_does_not_favour_the_input_token(dim, generator):
    weight = 0.02 * torch.randn(1000, dim, generator=generator)
    x = torch.nn.functional.rms_norm(weight, (dim,))

    own = TiedHead(dim)(x, weight).diagonal()  # (1000,)

    # a plain tied head gives 0.02 * dim; here the mean's standard error is about 0.02
    assert (x @ weight.T).diagonal().mean().item() == pytest.approx(0.02 * dim, rel=0.02)
    assert own.mean().item() == pytest.approx(0, abs=0.1)


def test_signs_come_back_from_the_meta_device():
    with torch.device("meta"):
        head = TiedHead(3)

    head.to_empty(device="cpu").reset_parameters()

    assert head.signs.tolist() == [1, -1, 1]


def test_refuses_bad_settings():
    with pytest.raises(ConfigError, match="softcap must be"):
        Head(4, 4, softcap=0.0)
    with pytest.raises(ConfigError, match="softcap must be"):
        TiedHead(4, softcap=-1.0)
    with pytest.raises(ConfigError, match=r"built for dim=4, got a weight of shape \(7, 3\)"):
        TiedHead(4)(torch.ones(1, 4), torch.ones(7, 3))
