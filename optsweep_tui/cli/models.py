"""`optsweep models [NAME]`: the shapes that can be trained, with parameters, FLOPs and memory."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from optsweep_tui.cli import options, output


def command(
    name: Annotated[str | None, typer.Argument(help="One model.", autocompletion=options.complete_model)] = None,
    _workspace: options.UnreadWorkspace = None,
    json_: options.Json = False,
) -> None:
    """List the models, or show one in full. A "+" changes a feature: the run then is of a model of its own.

    Examples: optsweep models | optsweep models 130m --json | optsweep models olmo-150m+qk_norm=false
    """
    from optsweep_engines import models
    from optsweep_tui import grid

    if name is not None:
        data = _described(grid.model_name(name))
        if json_:
            output.emit_json(data)
            return
        for key, value in data.items():
            print(f"{key:24}{output.count_text(value) if key.endswith(('flops_per_token', 'bytes')) else value}")
        return
    rows = [_described(entry) for entry in models.MODELS]
    if json_:
        output.emit_json(rows)
        return
    output.print_table(
        [
            "model",
            "family",
            "N non-emb",
            "total",
            "layers",
            "width",
            "heads",
            "mlp",
            "vocab",
            "seq",
            "batch",
            "FLOPs/token",
            "AdamW memory",
            "study",
        ],
        [
            (
                row["name"],
                row["family"],
                f"{row['non_embedding_params']:,}",
                f"{row['total_params']:,}",
                row["layers"],
                row["width"],
                row["heads"],
                row["mlp_width"],
                row["vocab_size"],
                row["seq_len"],
                row["batch_size"],
                output.count_text(row["flops_per_token"]),
                f"{row['adamw_training_bytes'] / 2**30:.2f} GiB",
                row["study"],
            )
            for row in rows
        ],
        left=(0, 1, 13),
    )
    print("\nfeatures of a model, by --set, --sweep, a grid, or in its name (olmo-150m+qk_norm=false):")
    for feature, doc in models.FEATURES.items():
        print(f"  {feature:18}{doc}")
    print("z_loss is a knob of the run: --set z_loss=1e-4")


def _described(name: str) -> dict[str, Any]:
    import dataclasses

    from optsweep_engines import models

    entry = models.model(name)
    shape = entry.shape
    attention = 12.0 * shape.layers * shape.width * entry.seq_len
    return {
        "name": entry.name,
        "study": entry.study,
        "source": entry.source,
        "doc": entry.doc,
        "non_embedding_params": shape.non_embedding_params,
        "total_params": shape.total_params,
        **dataclasses.asdict(shape),
        "z_loss": entry.z_loss,
        "seq_len": entry.seq_len,
        "batch_size": entry.batch_size,
        "dataset": entry.dataset,
        "dtype": entry.dtype,
        "schedule": entry.schedule,
        "flops_per_token": shape.flops_per_token(entry.seq_len),
        "flops_per_token_causal": shape.flops_per_token(entry.seq_len) - attention / 2,
        "adamw_training_bytes": models.training_bytes(shape, 1, entry.seq_len, entry.dtype, 2.0 * shape.total_params),
    }
