from trimtab.engine._rerun import Replay, Rerun
from trimtab.guard._replayer import Replayed, Replayer


def public(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


def test_the_engine_has_all_that_is_asked_for():
    assert public(Replayer) <= public(Rerun)
    assert set(Replayed.__annotations__) <= set(Replay.__annotations__)
