"""Checks of live objects before the first step."""

from trimtab.preflight._curvature import Curvature
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._preflight import Preflight, preflight
from trimtab.preflight._sharpness import Sharpness, sharpness
from trimtab.preflight._subject import Subject

__all__ = ["Curvature", "LiveRule", "Preflight", "Sharpness", "Subject", "preflight", "sharpness"]
