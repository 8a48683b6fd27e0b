"""The programs, one file for each family of faults, and the healthy ones."""
