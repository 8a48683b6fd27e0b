"""What lasts: the newest records of a signal, if they reach back far enough."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab.rules._history import Floats, Table

SPAN: Final = 0.7
"""Share of the wanted steps that records have to span: records of the steps 1, 10, 20 and
30 span 29 of 40."""


def lasting(table: Table, *, records: int, steps: int) -> Table | None:
    """Return the records of the last `steps` steps, or the last `records` if those are more.

    Args:
        table: All records.
        records: Fewest that are judged together.
        steps: What the judged ones have to span, to seven tenths at least.

    Returns:
        None while there are too few.
    """
    if len(table.steps) < records:
        return None
    since = int(np.searchsorted(table.steps, table.steps[-1] - steps))
    recent = table.last(max(records, len(table.steps) - since))
    return recent if recent.steps[-1] - recent.steps[0] >= SPAN * steps else None


def always(flags: NDArray[np.bool_], values: Floats, *, records: int) -> NDArray[np.bool_]:
    """Tell for which sites a condition held in every record in which they were measured.

    Args:
        flags: `(num_records, num_sites)`.
        values: What they are flags of; NaN where a site was not measured.
        records: Fewest records in which a site has to have been measured.
    """
    known = ~np.isnan(values)
    held: NDArray[np.bool_] = (flags | ~known).all(axis=0) & (known.sum(axis=0) >= records)
    return held
