"""File formats of other tools, read and written without them: TensorBoard's event files, Weights & Biases' run logs."""
