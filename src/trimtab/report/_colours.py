"""Colour scales that stay readable to colour-blind eyes, on paper and in grey."""

from typing import Final

SEQUENTIAL: Final = (
    "#0a1c4a",
    "#1d3767",
    "#374f76",
    "#51677f",
    "#6c8085",
    "#899a86",
    "#a9b481",
    "#ccce78",
    "#f2e86d",
)
"""From dark blue to light yellow: lightness grows evenly, and no step needs red told from green."""

DIVERGING: Final = (
    "#0d4a8a",
    "#4d7fb4",
    "#9db9d6",
    "#ebe8e2",
    "#e0b184",
    "#bd7433",
    "#84430a",
)
"""Blue for negative, orange for positive, equally dark at equal distance from zero."""
