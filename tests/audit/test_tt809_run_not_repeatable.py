import torch

from trimtab.audit import RunNotRepeatable
from trimtab.findings import Evidence

CAUSE = (
    "something does not follow the seed, such as a generator outside of the build function, or the "
    "kernels are not deterministic, as many on a GPU"
)
FIX = (
    "draw weights and the order of the data from the seed that build() is given, and switch on "
    "torch.use_deterministic_algorithms(True)"
)


def whole(what):
    return RunNotRepeatable().finding(
        what="two runs from the same seed differ from step 1 on, before anything was interrupted: "
        f"other {what}",
        step=1,
        evidence=(Evidence(name="first step that differs", value=1, normal="none"),),
        cause=CAUSE,
        fix=FIX,
    )


def test_fires_on_weights_of_a_generator_outside(resume, make_build):
    plain, generator = make_build(), torch.Generator().manual_seed(0)

    def build(seed):
        setup = plain(seed)
        for p in setup.model.parameters():
            p.data = torch.randn(p.shape, generator=generator)
        return setup

    assert resume(build, without=["optimizer"]).findings == [whole("losses and weights")]


def test_fires_on_data_of_a_generator_outside(resume, make_build, drawn):
    generator = torch.Generator().manual_seed(0)

    def batches():
        return drawn(int(torch.randint(1000, (), generator=generator)))

    assert resume(make_build(batches=batches)).findings == [whole("batches")]


def test_says_so_of_the_comparison_too(resume, make_build, drawn):
    counter = iter(range(100))
    audit = resume(make_build(batches=lambda: drawn(next(counter))))

    assert audit.facts["with trimtab.checkpoint"] == "not tried, as the run cannot be repeated"


def test_silent_on_a_run_that_follows_its_seed(resume, make_build):
    assert resume(make_build()).ok
