from torch import nn

from trimtab.audit import BuffersNotResumed
from trimtab.findings import Evidence

FIX = (
    "save and load the whole model.state_dict(), not only its parameters, and register buffers "
    "that have to last with persistent=True"
)


def test_fires_on_parameters_alone(resume, make_build, whole_state):
    save, load = whole_state

    def parameters(setup):
        return save(setup) | {"model": dict(setup.model.named_parameters())}

    def loose(setup, state):
        setup.model.load_state_dict(state.pop("model"), strict=False)
        load(setup, state)

    (found,) = resume(make_build(lambda: nn.BatchNorm1d(8)), save=parameters, load=loose).findings

    assert found == BuffersNotResumed().finding(
        what="3 of 3 buffers are not those that were saved: 1.running_mean, 1.running_var, "
        "1.num_batches_tracked",
        site="1.running_mean",
        step=6,
        evidence=(Evidence(name="buffers that differ", value=3, normal="0"),),
        cause="only parameters were saved or loaded, and buffers such as running statistics of "
        "BatchNorm begin anew",
        fix=FIX,
    )


def test_tells_buffers_that_do_not_last(resume, make_build):
    class Passing(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", nn.Parameter().new_zeros(8), persistent=False)

        def forward(self, x):
            self.mean += 0.1 * (x.detach().mean(0) - self.mean)
            return x - self.mean

    (found,) = resume(make_build(Passing)).findings

    assert (
        found.cause == "they are registered with persistent=False, so that no state_dict holds them"
    )
    assert found.name == "buffers-not-resumed"


def test_silent_on_buffers_that_are_saved(resume, make_build):
    assert resume(make_build(lambda: nn.BatchNorm1d(8))).ok
