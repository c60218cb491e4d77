"""The exact clean-ups as passes."""
