"""`trimtab watch` and `trimtab report`: look at a recorded run."""

from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated, Any

from trimtab.cli._options import flag


def watch(args: list[str]) -> int:
    """Show a run on the terminal."""
    import tyro

    from trimtab.report import newest_run
    from trimtab.report import watch as show

    run_help = "The run's folder; default: the newest one under runs/."
    folder: Any = Annotated[Path | None, tyro.conf.arg(help=run_help, metavar="[RUN]")]
    options: Any = make_dataclass(
        "Options",
        [
            ("run", tyro.conf.Positional[folder], None),  # type: ignore[misc] # made at run time
            ("once", flag("Show what there is now, and stop."), False),
        ],
    )
    given = tyro.cli(options, prog="trimtab watch", description=watch.__doc__, args=args)
    show(given.run or newest_run(), once=given.once)
    return 0


def report(args: list[str]) -> int:
    """Write an HTML page about a run, or about two runs side by side."""
    import tyro

    from trimtab.report import newest_run, write_report

    run_help = "Folders of one run or two; default: the newest one under runs/."
    folders: Any = Annotated[tuple[Path, ...], tyro.conf.arg(help=run_help, metavar="[RUN [RUN2]]")]
    out = Annotated[Path | None, tyro.conf.arg(help="The page; default: report.html in RUN.")]
    options: Any = make_dataclass(
        "Options",
        [
            ("run", tyro.conf.Positional[folders], ()),  # type: ignore[misc] # made at run time
            ("out", out, None),
            ("open", flag("Open the page in the browser."), False),
        ],
    )
    given = tyro.cli(options, prog="trimtab report", description=report.__doc__, args=args)
    path = write_report(given.run or (newest_run(),), given.out)
    print(path)
    if given.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0
