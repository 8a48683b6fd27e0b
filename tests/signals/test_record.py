import numpy as np

from trimtab.signals import StepRecord
from trimtab.signals._record import as_columns


def test_scalars_name_the_site():
    columns = {"weight.norm": np.array([1.0, 2.0])}
    record = StepRecord(3, {"loss": 0.5}, {"parameters": (["a", "b"], columns)})
    assert record.scalars() == {"loss": 0.5, "weight.norm/a": 1.0, "weight.norm/b": 2.0}


def test_numbers_become_columns_of_one():
    columns = as_columns({"loss": 0.5})
    assert columns["loss"].tolist() == [0.5]


def test_a_record_is_appended_table_by_table():
    rows = []

    class Writer:
        def append(self, *args):
            rows.append(args)

    columns = {"weight.norm": np.array([1.0])}
    record = StepRecord(3, {"loss": 0.5}, {"parameters": (["a"], columns)})
    record.append_to(Writer())
    steps, parameters = rows
    assert steps[:2] == ("steps", 3)
    assert parameters == ("parameters", 3, columns, ["a"])
