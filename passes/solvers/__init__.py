"""Closed-form solvers for the weights of one layer, given statistics of what it reads.

Everything here is numpy on arrays: a matrix of weights [out, reduction] and moments of the rows that
it is multiplied with. How the rows are collected is the business of
:mod:`sparsec.passes.calibration`, which layer is solved for that of the passes. What chooses *which*
weights stay (a mask) and what chooses *how large* they are live side by side here.
"""
