"""Faults injected into real trainings, beside what each protection makes of them."""
