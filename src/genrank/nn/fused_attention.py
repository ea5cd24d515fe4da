"""The backend on PyTorch's fused CPU attention: the context part is fused, and the term of the query itself is merged.

With z = logsumexp of the context scores and s = q·own_k / √D, the output is σ(z - s)·context + σ(s - z)·own_v. The
fused backward takes `out` and `logsumexp` as arguments, so passing the *merged* ones gives the exact gradients of the
context part, as in ring attention; the gradient of the query's own term is three elementwise lines.

A causal history needs no mask. Its ALiBi bias is, up to a term per row that cancels in the softmax, a bias per key,
which is computed by one extra channel: q' = [q, slope·√D], k' = [k, position].

Shapes as in attention.py.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from genrank.nn.attention import LearnedBias, Padding, Queries, Scoring, Tokens, padded_bias


class FusedAttention:
    """See Attention. CPU and softmax only, without a learned bias, whose gradient the kernel doesn't compute."""

    def __init__(self, queries: Queries, context: Tokens, scoring: Scoring):
        assert scoring.weighting == "softmax"
        self.sees_itself, self.bias = queries.sees_itself, scoring.bias
        bias = scoring.bias
        self.query_padding, self.context_padding = Padding(queries.tokens.offsets), Padding(context.offsets)
        self.causal = queries.causal and not bias.uses_time
        if self.causal:
            self.position_BL = self.context_padding.scatter(context.position)
        else:
            self.bias_BHML = padded_bias(queries, context, bias, self.query_padding, self.context_padding)

    def __call__(
        self,
        q_QHD: Tensor,
        k_THD: Tensor,
        v_THD: Tensor,
        own_k_QHD: Tensor,
        own_v_QHD: Tensor,
        learned: LearnedBias | None = None,
    ) -> Tensor:
        """See Attention. Computes in fp32: the bias of a long history is beyond bf16's eight bits."""
        assert learned is None
        dtype = q_QHD.dtype
        q_QHD, k_THD, v_THD, own_k_QHD, own_v_QHD = (x.float() for x in (q_QHD, k_THD, v_THD, own_k_QHD, own_v_QHD))
        return self._attend(q_QHD, k_THD, v_THD, own_k_QHD, own_v_QHD).to(dtype)

    def _attend(self, q_QHD: Tensor, k_THD: Tensor, v_THD: Tensor, own_k_QHD: Tensor, own_v_QHD: Tensor) -> Tensor:
        if self.context_padding.width == 0 or self.query_padding.width == 0:
            return own_v_QHD + 0 * (q_QHD * own_k_QHD).sum(-1, keepdim=True)  # a query that sees itself only
        q = self.query_padding.pad(q_QHD).transpose(1, 2)
        k, v = (self.context_padding.pad(x).transpose(1, 2) for x in (k_THD, v_THD))
        if self.causal:
            out = self._causal(q, k, v)
        elif self.sees_itself:
            own_k, own_v = (self.query_padding.pad(x).transpose(1, 2) for x in (own_k_QHD, own_v_QHD))
            bias = self.bias_BHML.to(q.dtype).expand(-1, q.shape[1], -1, -1)
            out = _MergedAttention.apply(q, k, v, own_k, own_v, bias)  # type: ignore[no-untyped-call]
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias_BHML.to(q.dtype))
        return self.query_padding.unpad(out.transpose(1, 2))

    def _causal(self, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> Tensor:
        slopes_H = q_BHLD.new_tensor(self.bias.position_slopes) * math.sqrt(q_BHLD.shape[-1])
        slope = slopes_H[:, None, None].expand(*q_BHLD.shape[:3], 1)
        position = self.position_BL.to(q_BHLD.dtype)[:, None, :, None].expand(*k_BHLD.shape[:3], 1)
        return F.scaled_dot_product_attention(
            torch.cat([q_BHLD, slope], dim=-1),
            torch.cat([k_BHLD, position], dim=-1),
            F.pad(v_BHLD, (0, 1)),
            is_causal=True,
            scale=1 / math.sqrt(q_BHLD.shape[-1]),
        )[..., :-1]


class _MergedAttention(torch.autograd.Function):
    @staticmethod
    def forward(saved, q, k, v, own_k, own_v, bias):  # type: ignore[no-untyped-def]
        scale = 1 / math.sqrt(q.shape[-1])
        context_out, context_z = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=bias, scale=scale
        )
        own_s = (q * own_k).sum(-1).to(context_z.dtype) * scale
        z = torch.logaddexp(context_z, own_s)
        own_weight = torch.exp(own_s - z).unsqueeze(-1).to(q.dtype)
        out = torch.exp(context_z - z).unsqueeze(-1).to(q.dtype) * context_out + own_weight * own_v
        saved.save_for_backward(q, k, v, own_k, own_v, bias, out, z, own_weight)
        return out

    @staticmethod
    def backward(saved, d_out):  # type: ignore[no-untyped-def]
        q, k, v, own_k, own_v, bias, out, z, own_weight = saved.saved_tensors
        scale = 1 / math.sqrt(q.shape[-1])
        d_q, d_k, d_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            d_out, q, k, v, out, z, 0.0, False, attn_mask=bias, scale=scale
        )
        d_s = own_weight * (d_out * (own_v - out)).sum(-1, keepdim=True) * scale
        return d_q + d_s * own_k, d_k, d_v, d_s * q, own_weight * d_out, None
