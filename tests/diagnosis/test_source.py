import pytest

from trimtab.diagnosis._source import SEEN_RUNNING, source_findings
from trimtab.findings import Selection, find_rule


def never_clears(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def retains(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward(retain_graph=True)
    optimizer.step()
    return loss


def test_what_running_cannot_tell_is_read():
    (finding,) = source_findings(retains, Selection())

    assert finding.code == "TT726"
    assert finding.file == __file__
    assert finding.line == retains.__code__.co_firstlineno + 3


@pytest.mark.parametrize("body", [None, never_clears])
def test_what_running_tells_is_left_to_it(body):
    assert source_findings(body, Selection()) == []


def test_a_selection_is_obeyed():
    assert source_findings(retains, Selection(ignore=("TT726",))) == []


def test_these_codes_exist():
    assert all(find_rule(code).scope == "source" for code in SEEN_RUNNING)
