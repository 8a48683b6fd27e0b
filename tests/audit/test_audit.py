import json

from trimtab.audit import Audit, OptimizerNotResumed
from trimtab.audit._audit import allowed
from trimtab.findings import Selection


def finding(**changes):
    return OptimizerNotResumed().finding(what="it begins anew", **changes)


def test_it_is_told_as_text_and_as_json():
    audit = Audit(subject="resume", findings=[finding(step=6)], facts={"steps": 10})

    assert not audit.ok
    assert str(audit) == (
        "TT803 optimizer-not-resumed, step 6\n  what      it begins anew\n\nsteps: 10\n"
    )
    told = json.loads(json.dumps(audit.to_dict()))
    assert (told["subject"], told["ok"], told["facts"]) == ("resume", False, {"steps": 10})
    assert told["findings"][0]["code"] == "TT803"


def test_nothing_found():
    audit = Audit(subject="resume", findings=[])

    assert audit.ok
    assert str(audit) == "nothing found\n"


def test_silent_rules_are_not_heard_as_consequences_either():
    inner = finding().with_(code="TT804")
    outer = finding(consequences=(inner,))

    assert allowed([outer], Selection()) == [outer]
    assert allowed([outer], Selection(ignore=("TT803",))) == []
    assert allowed([outer], Selection(ignore=("TT804",))) == [outer.with_(consequences=())]
