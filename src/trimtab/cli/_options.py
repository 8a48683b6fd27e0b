"""What the commands share: the form of their options, and of what they say beside their result."""

import argparse
import sys
from typing import Annotated, Any


def make_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return an empty parser of a command's options."""
    return argparse.ArgumentParser(
        prog=f"trimtab {command}", description=description, allow_abbrev=False
    )


def flag(help_text: str) -> Any:
    """Return the type of an option without a value, for tyro."""
    import tyro

    return Annotated[bool, tyro.conf.arg(help=help_text), tyro.conf.FlagCreatePairsOff]


def split_words(text: str) -> list[str]:
    """Return the words of a list with commas between them."""
    return [word for part in text.split(",") if (word := part.strip())]


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Say on standard error what does not stop the command; fits `warnings.showwarning`."""
    print(f"warning: {message}", file=sys.stderr)
