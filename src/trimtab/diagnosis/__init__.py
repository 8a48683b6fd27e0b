"""diagnose: train for a while, judge, and say what is wrong."""
