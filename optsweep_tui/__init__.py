"""optsweep: the lab bench for pretraining optimizers, in a terminal."""

__version__ = "0.1.0"
