"""The registered evaluators, one a file: ``--eval NAME:FILE``."""
