"""Checks of live objects before the first step."""
