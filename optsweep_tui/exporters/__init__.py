"""Runs to the files of other programs: tables, the marin tree, Weights & Biases' offline runs; live copies for their screens."""
