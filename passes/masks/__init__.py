"""Masks that follow a pattern: pure functions of an array of scores, True = kept."""
