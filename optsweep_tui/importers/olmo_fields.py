"""The fields of an OLMo configuration: what they are called here, which decide nothing, and what is remarked about the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SCHEDULES = {
    "cosine_with_warmup": "cosine",
    "linear_with_warmup": "linear",
    "constant": "constant",
    "freeze_cosine_with_warmup": "freeze_cosine_with_warmup",
}
SHAPE = {"d_model": "width", "n_heads": "heads", "mlp_hidden_size": "mlp_width", "n_layers": "layers"}
DTYPES = {"amp_bf16": "bf16", "bf16": "bf16", "fp32": "fp32"}
OF_THE_MACHINE = re.compile(
    r"(wandb|fsdp|ddp|compile|speed_monitor|torch_profiling|python_profiling|single|distributed_strategy"
    r"|run_name|dry_run|requeue|time_limit|extra_steps_after_cancel|early_stopping_factor"
    r"|device_\w+|save_\w+|sharded_checkpointer|new_style_checkpoints|remote_save_folder|eval_\w+|load_path\w*|restore_\w+"
    r"|evaluators|reset_\w+|no_pre_train_checkpoint|console_log_interval|gen1_gc_interval|canceled_check_interval|fused_loss"
    r"|activation_checkpointing|optimizer\.metrics_log_interval|optimizer\.record_update_metrics"
    r"|model\.(init_device|flash_attention|vocab_size|embedding_size|eos_token_id|pad_token_id)|tokenizer|data"
    r"|force_save_unsharded|hf_datasets_cache_dir|module_outputs_save_steps|cuda_\w+)(\..*)?"
)
"""Fields about logging, checkpoints, evaluation and the machine, and those of the data, which are remarked by themselves."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "model.alibi": (False,), "model.rope": (True,), "model.include_bias": (False,), "model.attention_dropout": (0,),
    "model.residual_dropout": (0,), "model.embedding_dropout": (0,), "model.bias_for_layer_norm": (False,),
    "model.weight_tying": (False,), "model.multi_query_attention": (False,), "model.block_type": ("sequential",),
    "model.layer_norm_with_affine": (True,), "model.attention_layer_norm_with_affine": (True,),
    "model.clip_qkv": (None,), "model.scale_logits": (False,), "optimizer.tie_betas": (False,),
    "optimizer.no_norm_training": (False,), "optimizer.lr_last_multiplier": (None,), "max_grad_norm_ratio": (None,),
    "scheduler.grad_clip_warmup_steps": (None,), "scheduler.grad_clip_warmup_factor": (None,), "scheduler.t_max": (None,),
    "scheduler.units": ("steps", "tokens"), "model.layer_norm_eps": (1e-5,),
    "optimizer.decay_norm_and_bias": (False,), "optimizer.decay_embeddings": (True,), "epoch": (None, 0),
    "model.effective_n_kv_heads": (None,), "model.precision": (None,),
}  # fmt: skip
"""Values of what decides results that say what is done here anyway."""
OF_FAMILY: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "olmo": {
        "model.attention_layer_norm": (True,), "softmax_auxiliary_loss": (True,), "model.activation_type": ("gelu",),
        "model.layer_norm_type": ("default",),
    },
    "llama": {
        "model.attention_layer_norm": (False,), "softmax_auxiliary_loss": (False,), "model.activation_type": ("swiglu",),
        "model.layer_norm_type": ("rms",),
    },
}  # fmt: skip
"""The same, where it depends on the model's family here."""


class Remarks:
    """What has no counterpart here, each said once however many runs have it."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, None]] = {}
        self._groups: dict[str, None] = {}

    def add(self, field: str, why: str) -> None:
        """A field that decides results."""
        self._seen.setdefault(field, {})[why] = None

    def machine(self, field: str) -> None:
        """A field about logging, checkpoints or the machine."""
        group = field.partition(".")[0]
        self._groups[field if group in ("optimizer", "model") else group] = None

    def listed(self) -> list[tuple[str, str]]:
        """(where, why) for the list of what was left out."""
        found = [(field, "; ".join(whys)) for field, whys in self._seen.items()]
        if self._groups:
            found.append(("of logging, checkpoints or the machine", f"not read: {', '.join(self._groups)}"))
        return found
