"""Shows a run: as one HTML file, live on the terminal, and as figures."""

from trimtab.report._html import write_report
from trimtab.report._newest import newest_run
from trimtab.report._plot import plot
from trimtab.report._watch import watch

__all__ = ["newest_run", "plot", "watch", "write_report"]
