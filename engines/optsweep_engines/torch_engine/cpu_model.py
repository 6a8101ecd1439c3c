"""The Llama-shaped decoder for one CPU core: forward and backward written out over buffers that are allocated once.

Autograd and fresh tensors cost a small model a third of its step. Here every product writes into a buffer that exists,
residuals are added inside the products, attention runs in blocks of queries so that most of what the causal mask would
hide is never computed, and no exponential is taken twice. `model.Decoder` stays the definition: `tests/numerics` holds
losses and gradients equal to its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from optsweep_engines.models import parameter_table
from optsweep_engines.spec import ModelShape
from optsweep_engines.torch_engine.cpu_buffers import Gain, Layer, Normed, Saved, Scratch, Workspace, layers_of, weight


def covers(shape: ModelShape) -> bool:
    """Whether this form computes the shape: RMSNorm with gains, rotary positions, SwiGLU, nothing else."""
    plain = shape.norm == "rms" and shape.activation == "swiglu" and shape.qk_norm == "none"
    return plain and not (shape.biases or shape.positions or shape.mup_base_width)


class CpuDecoder:
    """Loss, and loss with gradients, in fp32 on the CPU.

    Bound to the storage of its parameters: they may change in place. Gradients are buffers that the next call overwrites.
    """

    def __init__(self, shape: ModelShape, seq_len: int, params: Mapping[str, Tensor]) -> None:
        self.shape = shape
        head_size = shape.width // shape.heads
        exponents = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
        angles_TD = torch.arange(seq_len, dtype=torch.float64)[:, None] * shape.rope_theta**-exponents
        self.cos_sin_TD2 = torch.stack((angles_TD.cos(), angles_TD.sin()), dim=-1).float()
        self.eps = torch.tensor(shape.norm_eps)
        self.one = torch.tensor(1.0)
        self.spaces: dict[tuple[int, int], Workspace] = {}
        self.params = {name: value.detach() for name, value in params.items()}
        self.grads = {item.name: torch.empty(item.shape) for item in parameter_table(shape)}
        self.qkv_L3WW = torch.empty(shape.layers, 3 * shape.width, shape.width)
        self.dqkv_L3WW = torch.empty_like(self.qkv_L3WW)
        self.layers = layers_of(self.params, self.grads, self.qkv_L3WW, self.dqkv_L3WW)
        self.final_norm = Gain(value_W=self.params["final_norm"], grad_W=self.grads["final_norm"])
        head = "embedding" if shape.tied_embeddings else "head"
        self.head = weight(self.params[head], self.grads[head])

    @torch.no_grad()
    def loss(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token, fp32 scalar; no gradient can be taken of it."""
        space = self._space(x_BT)
        self._forward(space, x_BT)
        return self._cross_entropy(space, y_BT)

    @torch.no_grad()
    def loss_and_grads(self, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mean cross-entropy and its gradients in the order of the parameters."""
        space = self._space(x_BT)
        self._forward(space, x_BT)
        loss = self._cross_entropy(space, y_BT)
        self._backward(space, x_BT, y_BT)
        return loss, [self.grads[name] for name in self.params]

    def _space(self, x_BT: Tensor) -> Workspace:
        batch, tokens = x_BT.shape
        if (batch, tokens) not in self.spaces:
            self.spaces[batch, tokens] = Workspace(self.shape, batch, tokens, self.cos_sin_TD2)
        return self.spaces[batch, tokens]

    def _forward(self, space: Workspace, x_BT: Tensor) -> None:
        """Fill the workspace up to the probabilities."""
        scratch, h_NW = space.scratch, space.scratch.h_NW
        self._gather_qkv()
        torch.index_select(self.params["embedding"], 0, x_BT.reshape(-1), out=h_NW)
        for layer, saved in zip(self.layers, space.saved, strict=True):
            self._norm(h_NW, layer.attention_norm, saved.attention_in)
            self._attention(scratch, layer, saved)
            h_NW.addmm_(saved.mixed_NW, layer.attention_out.transposed)
            self._norm(h_NW, layer.mlp_norm, saved.mlp_in)
            self._mlp(scratch, layer, saved)
            h_NW.addmm_(saved.product_NM, layer.down.transposed)
        self._norm(h_NW, self.final_norm, space.final)
        torch.mm(space.final.out_NW, self.head.transposed, out=space.logits_NV)
        torch.softmax(space.logits_NV, -1, out=space.probabilities_NV)

    def _backward(self, space: Workspace, x_BT: Tensor, y_BT: Tensor) -> None:
        """Fill `grads` from a workspace that a forward has filled."""
        scratch, dh_NW = space.scratch, space.scratch.h_NW
        d_NV = space.probabilities_NV
        d_NV.scatter_add_(1, y_BT.reshape(-1, 1), space.minus_one_N1).mul_(1.0 / len(d_NV))
        torch.mm(space.probabilities_VN, space.final.out_NW, out=self.head.grad)
        torch.mm(d_NV, self.head.value, out=scratch.x_NW)
        dh_NW.zero_()
        self._norm_backward(scratch, self.final_norm, space.final)
        for layer, saved in zip(reversed(self.layers), reversed(space.saved), strict=True):
            self._mlp_backward(scratch, layer, saved)
            self._norm_backward(scratch, layer.mlp_norm, saved.mlp_in)
            torch.mm(scratch.h_WN, saved.mixed_NW, out=layer.attention_out.grad)
            torch.mm(dh_NW, layer.attention_out.value, out=scratch.x_NW)
            self._attention_backward(scratch, saved)
            torch.mm(scratch.dqkv_3WN, saved.attention_in.out_NW, out=layer.qkv.grad)
            torch.mm(scratch.qkv_N3W, layer.qkv.value, out=scratch.x_NW)
            self._norm_backward(scratch, layer.attention_norm, saved.attention_in)
        self._scatter_qkv()
        d_VW = torch.ops.aten.embedding_dense_backward(dh_NW, x_BT.reshape(-1), self.shape.vocab_size, -1, False)
        if self.shape.tied_embeddings:
            self.grads["embedding"].add_(d_VW)
        else:
            self.grads["embedding"] = d_VW

    def _cross_entropy(self, space: Workspace, y_BT: Tensor) -> Tensor:
        # log sum exp = largest logit - log(largest probability), which is never below 1/V: no second exponential.
        normaliser_N = space.logits_NV.amax(-1) - space.probabilities_NV.amax(-1).log_()
        return (normaliser_N - space.logits_NV.gather(1, y_BT.reshape(-1, 1)).squeeze(1)).mean()

    def _gather_qkv(self) -> None:
        """One matrix for q, k and v; rows of q and k reordered so that the halves that turn together are neighbours.

        Scores do not change when q and k are reordered alike, and neighbours turn by one complex product.
        """
        for index, name in enumerate(("q", "k", "v")):
            self._rows(self.qkv_L3WW, index).copy_(self._paired(self.params[name], index))

    def _scatter_qkv(self) -> None:
        """The gradients of q, k, v from that of the one matrix."""
        for index, name in enumerate(("q", "k", "v")):
            self._paired(self.grads[name], index).copy_(self._rows(self.dqkv_L3WW, index))

    def _rows(self, qkv_L3WW: Tensor, index: int) -> Tensor:
        """Rows of one of q, k, v as [L, H, D/2, 2, W]."""
        width, heads = self.shape.width, self.shape.heads
        return qkv_L3WW[:, index * width : (index + 1) * width].view(-1, heads, width // heads // 2, 2, width)

    def _paired(self, bank_LWW: Tensor, index: int) -> Tensor:
        """The bank of q or k as [L, H, D/2, 2, W], rows i and i + D/2 of a head side by side; that of v as it is."""
        width, heads = self.shape.width, self.shape.heads
        half = width // heads // 2
        if index == 2:
            return bank_LWW.view(-1, heads, half, 2, width)
        return bank_LWW.view(-1, heads, 2, half, width).transpose(2, 3)

    def _norm(self, x_NW: Tensor, gain: Gain, out: Normed) -> None:
        root_N1 = torch.linalg.vector_norm(x_NW, dim=1, keepdim=True)
        torch.addcmul(self.eps, root_N1, root_N1, value=1.0 / self.shape.width, out=out.inverse_N1).rsqrt_()
        torch.mul(x_NW, out.inverse_N1, out=out.unit_NW)
        torch.mul(out.unit_NW, gain.value_W, out=out.out_NW)

    def _norm_backward(self, scratch: Scratch, gain: Gain, saved: Normed) -> None:
        """Adds to `scratch.h_NW` the gradient of the norm's input, given that of its output in `scratch.x_NW`."""
        product_NW = torch.mul(scratch.x_NW, saved.unit_NW, out=scratch.x2_NW)
        torch.sum(product_NW, 0, out=gain.grad_W)
        mean_N1 = torch.mv(product_NW, gain.value_W).mul_(-1.0 / self.shape.width).unsqueeze(1)
        d_NW = scratch.x_NW.mul_(gain.value_W).addcmul_(saved.unit_NW, mean_N1)
        scratch.h_NW.addcmul_(d_NW, saved.inverse_N1)

    def _attention(self, scratch: Scratch, layer: Layer, saved: Saved) -> None:
        torch.mm(saved.attention_in.out_NW, layer.qkv.transposed, out=scratch.qkv_N3W)
        torch.mul(scratch.qk_columns, scratch.turn, out=saved.qk_pairs)
        saved.v_BHTD.copy_(scratch.v_columns_BHTD)
        for block in saved.blocks:
            torch.bmm(block.q_ZbD, block.k_ZDE, out=block.scores_ZbE)
            block.diagonal_Zbb.add_(block.mask_bb)
            torch.softmax(block.scores_ZbE, -1, out=block.weights_ZbE)
            torch.bmm(block.weights_ZbE, block.v_ZED, out=block.part_ZbD)
            block.mixed_BHbD.copy_(block.part_BHbD)

    def _attention_backward(self, scratch: Scratch, saved: Saved) -> None:
        """From the gradient of `mixed` in `scratch.x_NW` to that of q, k, v in `scratch.qkv_N3W`."""
        scratch.heads_BHTD.copy_(scratch.x_BHTD)
        for block in reversed(saved.blocks):
            dweights_ZbE = torch.bmm(block.dmixed_ZbD, block.v_ZDE, out=block.scores_ZbE)
            torch.ops.aten._softmax_backward_data.out(
                dweights_ZbE, block.weights_ZbE, -1, torch.float32, grad_input=block.dscores_ZbE
            )
            block.dq_ZbD.copy_(torch.bmm(block.dscores_ZbE, block.k_ZED, out=block.part_ZbD))
            if block.is_last:
                torch.bmm(block.dscores_ZEb, block.q_ZbD, out=block.dk_ZED)
                torch.bmm(block.weights_ZEb, block.dmixed_ZbD, out=block.dv_ZED)
            else:
                block.dk_ZED.add_(torch.bmm(block.dscores_ZEb, block.q_ZbD, out=block.reached_ZED))
                block.dv_ZED.add_(torch.bmm(block.weights_ZEb, block.dmixed_ZbD, out=block.reached_ZED))
        torch.mul(scratch.dqk_pairs, scratch.turn_back, out=scratch.qk_columns)
        scratch.v_columns_BHTD.copy_(scratch.dv_BHTD)

    def _mlp(self, scratch: Scratch, layer: Layer, saved: Saved) -> None:
        torch.mm(saved.mlp_in.out_NW, layer.gate.transposed, out=scratch.a_NM)
        torch.mm(saved.mlp_in.out_NW, layer.up.transposed, out=saved.up_NM)
        torch.sigmoid(scratch.a_NM, out=saved.sigmoid_NM)
        torch.mul(scratch.a_NM, saved.sigmoid_NM, out=saved.silu_NM)
        torch.mul(saved.silu_NM, saved.up_NM, out=saved.product_NM)

    def _mlp_backward(self, scratch: Scratch, layer: Layer, saved: Saved) -> None:
        """From `scratch.h_NW` to the gradient of the MLP's input in `scratch.x_NW`."""
        in_NW = saved.mlp_in.out_NW
        torch.mm(scratch.h_WN, saved.product_NM, out=layer.down.grad)
        torch.mm(scratch.h_NW, layer.down.value, out=scratch.a_NM)
        torch.mul(scratch.a_NM, saved.silu_NM, out=scratch.b_NM)
        # silu' = silu + sigmoid (1 - silu)
        slope_NM = torch.sub(self.one, saved.silu_NM, out=scratch.c_NM)
        torch.addcmul(saved.silu_NM, saved.sigmoid_NM, slope_NM, out=slope_NM)
        scratch.a_NM.mul_(saved.up_NM).mul_(slope_NM)
        torch.mm(scratch.a_MN, in_NW, out=layer.gate.grad)
        torch.mm(scratch.b_MN, in_NW, out=layer.up.grad)
        torch.mm(scratch.a_NM, layer.gate.value, out=scratch.x_NW)
        scratch.x_NW.addmm_(scratch.b_NM, layer.up.value)
