"""What runs on a training machine: specs, the launch shim, update rules and engines; needs numpy and torch or jax."""

__version__ = "0.1.0"
