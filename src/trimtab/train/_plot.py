"""The picture of a run: loss, learning rate and gradient norm over the steps."""

import math
from pathlib import Path

from trimtab.checkpoint import write_atomic
from trimtab.train._metrics import Row


def plot_curves(rows: list[Row], path: Path, *, title: str, loss_unit: str, clip: float) -> None:
    """Draw the curves of a run into a PNG file.

    Args:
        rows: As read from the run's metrics.
        path: The picture; replaced whole.
        title: Above it.
        loss_unit: Beside the loss axis.
        clip: Threshold drawn beside the norms; 0 draws none.
    """
    import io

    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(8, 7), layout="constrained")
    loss, lr, norm = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1.6])
    figure.suptitle(title, fontsize=11)

    loss.plot(steps, [row["loss"] for row in rows], color="#8fb4d9", lw=1, label="training")
    validated = [row for row in rows if "val_loss" in row]
    loss.plot(
        [row["step"] for row in validated],
        [row["val_loss"] for row in validated],
        color="#c2410c",
        marker="o",
        ms=4,
        label="validation",
    )
    loss.set_ylabel(f"loss, {loss_unit}")
    lr.plot(steps, [row["lr"] for row in rows], color="#4d7c0f")
    lr.set_ylabel("learning rate")
    lr.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    norm.plot(steps, [row["grad_norm"] for row in rows], color="#6d28d9", lw=1, label="before clip")
    if clip:
        norm.axhline(clip, color="#111827", ls="--", lw=1, label=f"clip at {clip:g}")
    if any(math.isfinite(row["grad_norm"]) and row["grad_norm"] > 0 for row in rows):
        norm.set_yscale("log")
    norm.set_ylabel("gradient norm")
    norm.set_xlabel("step")
    skipped = [row["step"] for row in rows if row["skipped"]]
    for axes in (loss, norm):
        for index, step in enumerate(skipped):
            axes.axvline(step, color="#b91c1c", alpha=0.4, label=None if index else "skipped")
        axes.legend(frameon=False, fontsize=9)
    for axes in (loss, lr, norm):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    write_atomic(path, data.getvalue())
