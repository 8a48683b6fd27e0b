"""Rules over the source code of training loops; nothing is executed."""
