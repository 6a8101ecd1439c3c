"""Tuning: from the results so far to the next runs of a cell, until its best configuration has fresh seeds."""
