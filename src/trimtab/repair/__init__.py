"""Repair: find out what is wrong with a run, mend it, and train again until it is healthy."""
