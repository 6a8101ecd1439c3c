"""What finished sweeps say about hyperparameters: stable values, edges, one knob's curve, scaling rules, predictions."""
