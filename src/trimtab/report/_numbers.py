"""Numbers as a reader wants them: a few digits, no needless exponent."""

import math

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits.

    >>> [number(v) for v in (2.34567, 1234567, 3e-4, 0, 128.0, float("nan"))]
    ['2.346', '1,234,567', '3×10⁻⁴', '0', '128', 'NaN']
    """
    if math.isnan(value):
        return "NaN"
    sign, size = "−" if value < 0 else "", abs(value)
    if math.isinf(size):
        return f"{sign}∞"
    if size == 0:
        return "0"
    if size >= 1e7 or size < 1e-3:
        mantissa, _, exponent = f"{size:.{max(digits - 2, 1)}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{sign}{mantissa}×10{str(int(exponent)).translate(_RAISED)}"
    if size == int(size) or size >= 10**digits:
        return f"{sign}{round(size):,}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{sign}{size:.{decimals}f}"


def percent(share: float) -> str:
    """Return a share between 0 and 1 in per cent, never rounded down to nothing.

    >>> [percent(v) for v in (0, 0.0004, 0.1234, 1)]
    ['0 %', '< 0.1 %', '12.3 %', '100 %']
    """
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.{0 if share in {0, 1} else 1}f} %"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units.

    >>> [duration(v) for v in (4.25, 75, 3700, 200_000)]
    ['4.2 s', '1 min 15 s', '1 h 1 min', '2 d 7 h']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, less, lesser in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // less} {lesser}"
    return f"{whole // 60} min {whole % 60} s"


def title(signal: str) -> str:
    """Return a signal's name as a heading.

    >>> [title(s) for s in ("activation.rms", "step.seconds", "val_loss", "learning_rate")]
    ['Activation RMS', 'Step time', 'Validation loss', 'Learning rate']
    """
    special = {"step.seconds": "step time", "val_loss": "validation loss", "memory.bytes": "memory"}
    words = special.get(signal, signal.replace(".", " ").replace("_", " "))
    words = words.replace(" rms", " RMS").replace("nonfinite", "non-finite")
    return words[:1].upper() + words[1:]
