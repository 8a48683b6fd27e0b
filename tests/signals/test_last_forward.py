import gc
import math
import weakref

import pytest
import torch
from torch import nn

from trimtab.signals._last_forward import MAX_RERUNS, LastForward

X = torch.ones(4, 3)
BAD = torch.tensor([[1.0], [2.0], [math.nan], [4.0]]).expand(4, 3)


def locate(last, model, loss=None, *, scaled=False):
    return last.locate(model.named_parameters(), (), loss=loss, scaled=scaled)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))


def test_the_last_training_pass_is_run_again(model):
    last = LastForward(model)
    model(BAD)
    source = locate(last, model)
    assert (source.kind, source.row) == ("input", 2)


def test_only_training_passes_are_kept(model):
    last = LastForward(model)
    with torch.no_grad():
        model(BAD)
    model.eval()
    model(BAD)
    model.train()
    assert locate(last, model) is None


def test_nothing_is_kept_after_the_step_nor_where_nothing_shall_be(model):
    last = LastForward(model)
    x = X.clone()
    gone = weakref.ref(x)
    model(x)
    del x
    assert gone() is not None
    last.drop()
    gc.collect()
    assert gone() is None
    last.keeps = False
    model(BAD)
    assert locate(last, model) is None
    last.keeps = True
    model(BAD)
    last.remove()
    assert locate(last, model) is None
    assert not model._forward_pre_hooks


def test_at_most_so_many_passes_of_a_run(model):
    last = LastForward(model)
    for number in range(MAX_RERUNS + 2):
        model(BAD)
        assert (locate(last, model) is not None) == (number < MAX_RERUNS)


def test_one_step_is_located_once(model):
    """The second optimizer of a step finds nothing more."""
    last = LastForward(model)
    model(BAD)
    assert locate(last, model) is not None
    assert locate(last, model) is None


def test_inputs_that_were_overwritten_since_tell_nothing(model):
    last = LastForward(model)
    x = X.clone()
    model(x)
    x.fill_(math.nan)
    assert locate(last, model) is None


def test_the_autocast_of_the_pass_holds_in_the_rerun(model):
    with torch.no_grad():
        model[0].weight.fill_(1e5)
    last = LastForward(model)
    with torch.autocast("cpu", torch.float16):
        model(X)
    assert locate(last, model).site == "0"


class TestWhatComesLater:
    """Everything in the forward pass was finite."""

    def break_gradient(self, model):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        model[0].bias.grad[0] = math.inf

    def test_the_loss(self, model):
        last = LastForward(model)
        model(X)
        source = locate(last, model, loss=math.nan)
        assert (source.kind, str(source)) == ("loss", "the loss")

    @pytest.mark.parametrize("loss", [None, 1.0])
    def test_the_backward_pass(self, model, loss):
        last = LastForward(model)
        model(X)
        self.break_gradient(model)
        source = locate(last, model, loss=loss)
        assert str(source) == "gradient of 0.bias"

    def test_of_several_passes_another_may_be_to_blame(self, model):
        last = LastForward(model)
        model(BAD)
        model(X)
        self.break_gradient(model)
        assert locate(last, model) is None

    @pytest.mark.parametrize("loss", [None, 1.0])
    def test_a_scaled_gradient_may_overflow_and_costs_no_rerun(self, model, loss):
        last = LastForward(model)
        for _ in range(MAX_RERUNS + 1):
            model(X)
            self.break_gradient(model)
            assert locate(last, model, loss, scaled=True) is None
        model(BAD)
        assert locate(last, model, math.nan, scaled=True).kind == "input"


def test_a_forward_pass_that_raises_ends_no_run():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = nn.Linear(3, 3), 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("only once")
            return self.inner(x)

    model = Once()
    last = LastForward(model)
    model(X)
    assert locate(last, model) is None


def test_what_one_process_cannot_run_alone_is_let_be():
    model = nn.Sequential(nn.SyncBatchNorm(3), nn.Linear(3, 1))
    last = LastForward(model)
    last((), (BAD,), {})
    assert locate(last, model) is None
    assert not last.keeps


def test_compiled_code_keeps_nothing_and_has_whole_graphs(model):
    torch.compiler.reset()
    last = LastForward(model)
    torch.compile(model, backend="eager", fullgraph=True)(BAD)
    assert locate(last, model) is None
    torch.compiler.reset()


def test_around_compiled_code_it_is_kept(model):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    last = LastForward(compiled)
    compiled(BAD)
    assert locate(last, model).kind == "input"
    torch.compiler.reset()
