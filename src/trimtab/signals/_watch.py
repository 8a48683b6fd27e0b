"""What is measured, and how often."""

import re
from dataclasses import dataclass

from trimtab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is measured how often; 0 leaves a family out.

    The numbers of each step (loss, norms, learning rate) cost nothing and are always there.

    Raises:
        ConfigError: A number is negative, or a pattern is no regular expression.
    """

    parameters: int = 10
    """Steps between two records of all parameters."""
    modules: int = 10
    """Steps between two records of all module outputs."""
    histograms: int = 200
    """Steps between two histograms of outputs, gradients and weights."""
    burst: int = 20
    """Steps that are recorded in full after something unusual: a value that was not finite, or a
    gradient norm that doubled."""
    replicas: int = 10
    """Records of the parameters between two comparisons of the replicas, where several processes
    train together."""
    include: str = ""
    """Regular expression; only sites whose name it matches somewhere are measured."""
    exclude: str = ""
    """Regular expression; sites whose name it matches somewhere are not."""

    def __post_init__(self) -> None:
        for name in ("parameters", "modules", "histograms", "burst", "replicas"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                unit = "records" if name == "replicas" else "steps"
                raise ConfigError(f"{name} is a number of {unit}, 0 or more, got {value!r}.")
        for name in ("include", "exclude"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ConfigError(
                    f"{name} must be a regular expression, got {getattr(self, name)!r}: {error}."
                ) from error

    def keeps(self, site: str) -> bool:
        """Return whether a site is measured."""
        if self.exclude and re.search(self.exclude, site):
            return False
        return re.search(self.include, site) is not None


def as_watch(watch: "bool | int | Watch") -> Watch:
    """Return the cadence for what a user may pass: on, off, every how many steps, or all of it.

    Raises:
        ConfigError: It is something else, or a negative number.
    """
    if isinstance(watch, Watch):
        return watch
    if watch is True:
        return Watch()
    if watch is False:
        return Watch(parameters=0, modules=0, histograms=0, burst=0)
    if isinstance(watch, int):
        return Watch(parameters=watch, modules=watch, histograms=20 * watch)
    raise ConfigError(
        f"watch must be True, False, a number of steps between records, or a Watch; got "
        f"{type(watch).__name__}."
    )
