"""Rules over signals: what a run shows of its faults while it goes on."""
