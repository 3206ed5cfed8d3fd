"""The command line: one file per command, argument parsing only; the work is done elsewhere."""
