"""The `metrics.csv` of a `trimtab train` run, as rows of the table `steps`."""

import io
from pathlib import Path
from typing import Any, Final

import numpy as np

from trimtab.errors import ConfigError
from trimtab.signals._segments import arrow

SIGNAL_OF: Final = {
    "loss": "loss",
    "grad_norm": "gradient.norm",
    "clip_coefficient": "gradient.clip_coefficient",
    "lr": "learning_rate",
    "loss_scale": "loss_scale",
    "skipped": "step.skipped",
}
"""Columns that are signals; the others keep their names."""


def read_metrics_csv(path: Path) -> Any:
    """Return a metrics file as an Arrow table; a last line that a crash cut off is left out.

    What is empty in the file is null; NaN and infinity are what they are.

    Raises:
        ConfigError: It is not a metrics file.
    """
    pa, csv = arrow(), arrow("csv")
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    names = whole.partition(b"\n")[0].decode(errors="replace").strip().split(",")
    if "step" not in names:
        raise ConfigError(
            f"{path} has no column 'step', so it is not the metrics file of a run. "
            f"Its first line is {','.join(names)!r}."
        )
    types = {name: pa.int64() if name == "step" else pa.float64() for name in names}
    convert = csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)
    try:
        table = csv.read_csv(io.BytesIO(whole), convert_options=convert)
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{path} cannot be read as a metrics file: {error}") from error
    return table.rename_columns([SIGNAL_OF.get(name, name) for name in table.column_names])


def join_metrics(steps: Any, metrics: Any) -> Any:
    """Return the rows of both tables by step; where both have a value, that of `steps` stays.

    So nothing is lost of steps that were thinned out, or have not been flushed yet.
    """
    pa, compute = arrow(), arrow("compute")
    own, other = steps["step"].to_numpy(), metrics["step"].to_numpy()
    both = np.concatenate([own, np.setdiff1d(other, own)])
    order = np.argsort(both, kind="stable")
    both = both[order]
    left = pa.array(order, mask=order >= len(own))
    by_step = np.argsort(other, kind="stable")
    place = np.searchsorted(other, both, side="right", sorter=by_step) - 1  # the last of equals
    place = np.append(by_step, -1)[place]  # -1 where there is none before
    right = pa.array(place, mask=np.append(other, -1)[place] != both)
    columns = {"step": pa.array(both)}
    for name in dict.fromkeys([*steps.column_names, *metrics.column_names]):
        if name == "step":
            continue
        values = [
            t[name].cast(pa.float64()).take(index)
            for t, index in ((steps, left), (metrics, right))
            if name in t.column_names
        ]
        columns[name] = compute.coalesce(*values) if len(values) > 1 else values[0]
    return pa.table(columns)
