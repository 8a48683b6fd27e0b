"""One thing that a repair changed."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change of a training setup."""

    what: str
    """Such as `"learning rate"`."""
    before: str
    after: str
    where: str = ""
    """Such as `"param group 0"`; empty where there is only one place."""
    advice: str = ""
    """What to write into the program, so that it is right without the repair."""

    @property
    def diff(self) -> str:
        """The change in one line, such as `"learning rate: 1 -> 0.01"`."""
        where = f" of {self.where}" if self.where else ""
        return f"{self.what}{where}: {self.before} -> {self.after}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "what": self.what,
            "where": self.where,
            "before": self.before,
            "after": self.after,
            "advice": self.advice,
        }

    def __str__(self) -> str:
        return self.diff
