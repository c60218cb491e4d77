"""Calibration: statistics of what every weight reads, collected once and shared by all passes."""
