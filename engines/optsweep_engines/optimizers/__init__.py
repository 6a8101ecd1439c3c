"""The optimizer catalogue: each update rule written once, over an array namespace; numpy float64 is the reference."""
