from trimtab.repair import Edit


def test_diff_says_what_where_and_both_values():
    edit = Edit(what="learning rate", before="1", after="0.01")
    assert str(edit) == edit.diff == "learning rate: 1 -> 0.01"
    assert (
        Edit(what="learning rate", where="param group 1", before="1", after="0.01").diff
        == "learning rate of param group 1: 1 -> 0.01"
    )


def test_to_dict_holds_all_fields():
    edit = Edit(what="dropout", before="0.9", after="0.1", where="2", advice="use p=0.1")
    assert edit.to_dict() == {
        "what": "dropout",
        "where": "2",
        "before": "0.9",
        "after": "0.1",
        "advice": "use p=0.1",
    }
