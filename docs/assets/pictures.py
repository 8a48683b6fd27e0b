"""Makes the pictures of README and documentation from one real run: `make pictures`."""

import fcntl
import io
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from trimtab.report import write_report

HERE = Path(__file__).parent
COLUMNS, LINES = 100, 60
COMMAND = ["train", "--out", "runs/first"]


def record(command: list[str], folder: Path) -> pyte.Screen:
    """Run a command in a terminal of its own and return what stands on the screen at the end.

    Raises:
        SystemExit: The command failed.
    """
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    with subprocess.Popen(command, cwd=folder, env=env, stdin=far, stdout=far, stderr=far) as run:
        os.close(far)
        while True:
            try:
                data = os.read(near, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not data:
                break
            stream.feed(data)
    os.close(near)
    if run.returncode:
        raise SystemExit("\n".join(screen.display))
    return screen


def styled(screen: pyte.Screen) -> Text:
    """Return the screen's text with its colours, without the empty lines below."""
    text = Text()
    last = max(i for i, line in enumerate(screen.display) if line.strip())
    for row in range(last + 1):
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            text.append(cell.data, Style(color=colour(cell.fg), bold=cell.bold))
        text.append("\n")
    return text


def colour(name: str) -> Color | None:
    """Return rich's colour for pyte's name of it."""
    if name == "default":
        return None
    names = {"brown": "yellow"}
    is_hex = len(name) == 6 and all(c in "0123456789abcdef" for c in name)
    return Color.parse(f"#{name}" if is_hex else names.get(name, name))


def svg(text: Text, title: str) -> str:
    """Return the picture; it names the reader's own fonts and loads none."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ " + " ".join(["trimtab", *COMMAND]), style="bold"))
    console.print(text, end="")
    start, end = CONSOLE_SVG_FORMAT.index("@font-face"), CONSOLE_SVG_FORMAT.index(".{unique_id}-ma")
    form = CONSOLE_SVG_FORMAT[:start] + CONSOLE_SVG_FORMAT[end:]
    form = form.replace(
        "font-family: Fira Code, monospace", "font-family: Menlo, Consolas, monospace"
    )
    return console.export_svg(title=title, theme=MONOKAI, code_format=form, unique_id="trimtab")


def photograph(page: Path, picture: Path) -> None:
    """Show a page in headless Chromium and keep what a large screen shows.

    Raises:
        SystemExit: There is no Chromium.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("The picture of the report needs Chromium: apt-get install chromium")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,2150"]
    command = [chromium, *options, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Train with the defaults, keep the terminal and the curves."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("trimtab")), *COMMAND]
        screen = record(command, Path(folder))
        picture = svg(styled(screen), "trimtab train")
        (HERE / "terminal.svg").write_text(picture, encoding="utf-8")
        shutil.copy(Path(folder) / "runs/first/curves.png", HERE / "curves.png")
        photograph(write_report([Path(folder) / "runs/first"]), HERE / "report.png")
    print("\n".join(screen.display).rstrip())


if __name__ == "__main__":
    main()
