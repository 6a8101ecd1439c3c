"""What every analysis takes: one row per run and study, and the columns that make a cell and a comparable group."""

from __future__ import annotations

# One row per run and study: what `store.queries.results` returns and every analysis takes.
RESULTS = {
    "run_id": "32 hex digits",
    "study": "name of the grid the run belongs to; a run of two studies has two rows",
    "origin": '"native", or the importer that brought it',
    "engine": "torch or jax; None for imported runs without one",
    "optimizer": "catalogue name",
    "model": "catalogue name",
    "params": "N, non-embedding parameters",
    "total_params": "all stored parameters",
    "chinchilla": "D / (20 N)",
    "tokens": "D, target training tokens",
    "dataset": "name",
    "dataset_hash": "sha256 of the shards; None for imported runs",
    "validation_set": "name:tokens of the held-out set",
    "seq_len": "tokens",
    "batch_size": "sequences per step",
    "schedule": "name",
    "dtype": "fp32 or bf16",
    "seed": "int; None when unpublished",
    "hyperparameters": "canonical JSON text, all knobs",
    "state": "done, diverged, oom, failed, cancelled, nan, missing; or of a live run: planned, queued, running, ...",
    "loss": "final validation loss, nats per token; null unless done or diverged",
    "steps": "planned optimizer steps",
    "tokens_per_step": "batch_size * seq_len",
    "flops_per_token": "model FLOPs, forward and backward",
    "optimizer_flops_per_step": "extra FLOPs of the update rule",
    "seconds_per_token": "median steady seconds per token; null when not measured",
    "device": "where it ran",
    "state_bytes": "optimizer state, bytes",
    "train_seconds": "seconds in training steps",
    "start_mode": "branch: goes on from the state of a trunk; weights: began with the parameters of another run; else null",
}

# A cell is one row of the comparison; runs of one cell differ in hyperparameters and seed only.
CELL = [
    "study",
    "engine",
    "optimizer",
    "model",
    "chinchilla",
    "tokens",
    "dataset",
    "dataset_hash",
    "validation_set",
    "seq_len",
]

# Cells that may be compared with each other share these.
GROUP = ["study", "engine", "model", "dataset", "dataset_hash", "validation_set", "seq_len"]
