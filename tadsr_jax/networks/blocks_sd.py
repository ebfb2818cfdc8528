"""The blocks of Stable Diffusion's U-Net, which its ControlNet shares [arXiv 2112.10752].

    a layer of it: ResnetBlock -> Transformer of the text states -> Transformer of image states, SeeSR's addition

ResnetBlock    two convolutions, steered by the step              Transformer   TransformerBlock between projections
Attention      in heads, of any number of tokens in bounded memory
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadsr_jax.networks.layers import Conv, Dense, Dtype, GroupNorm, NormSilu, map_chunks, torch_uniform

TRANSFORMER_EPSILON = 1e-6  # of the group norm before a transformer; all other norms have 1e-5
LAYER_NORM_EPSILON = 1e-5
ATTENTION_LOGITS = 2**24  # at a time: 64 MB, which a CPU prefers to more
ATTENTION_ROWS = 512  # queries at a time where the number of keys is symbolic


class ResnetBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x))) + time(emb)))): (n, h, w, c), (n, e) -> (n, h, w, features).

    x goes through a convolution of size 1 where the width changes; `emb` is activated already.
    """

    features: int
    groups: int
    epsilon: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, emb):
        h = NormSilu(self.groups, self.epsilon, self.dtype, name="norm1")(x)
        h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
        h += Dense(self.features, dtype=self.dtype, name="time_emb_proj")(emb)[:, None, None]  # n 1 1 c
        h = NormSilu(self.groups, self.epsilon, self.dtype, name="norm2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="conv_shortcut")(x)
        return Conv(self.features, dtype=self.dtype, name="conv2")(h, onto=x)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v in heads of width d = c / heads: queries (n, p, c), context (n, k, e) -> (n, p, c).

    Queries are taken some at a time: memory grows with p + k, not with p k.
    """

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, context):
        n, p, c = x.shape

        def project(tokens, name):
            init = torch_uniform(tokens.shape[-1])
            tokens = nn.Dense(c, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)(tokens)
            return tokens.reshape(n, tokens.shape[1], self.heads, c // self.heads)

        q, k, v = project(x, "to_q"), project(context, "to_k"), project(context, "to_v")

        def attend(q):
            logits = jnp.einsum("nqhd,nkhd->nhqk", q, k, preferred_element_type=jnp.float32)
            return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(logits, axis=-1).astype(self.dtype), v)

        keys = context.shape[1]
        rows = ATTENTION_LOGITS // (self.heads * keys) if isinstance(keys, int) else ATTENTION_ROWS
        y = map_chunks(attend, q * (c // self.heads) ** -0.5, rows=rows).reshape(n, p, c)
        return Dense(c, dtype=self.dtype, name="to_out.0")(y)


class TransformerBlock(nn.Module):
    """Attention of the tokens among themselves, attention to the context, feed-forward, each x + f(LayerNorm(x)).

    x (n, p, c), context (n, k, e) -> (n, p, c). The feed-forward is GEGLU, value * gelu(gate), four times as wide.
    """

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, context):
        def norm(x, name):
            # The fast variance, E[x^2] - E[x]^2, would lose the digits of a large mean.
            layer = nn.LayerNorm(LAYER_NORM_EPSILON, self.dtype, use_fast_variance=False, name=name)
            return layer(x)

        y = norm(x, "norm1")
        x = x + Attention(self.heads, self.dtype, name="attn1")(y, y)
        x = x + Attention(self.heads, self.dtype, name="attn2")(norm(x, "norm2"), context)
        c = x.shape[-1]
        y = Dense(8 * c, dtype=self.dtype, name="ff.net.0.proj")(norm(x, "norm3"))
        value, gate = jnp.split(y, 2, axis=-1)
        return x + Dense(c, dtype=self.dtype, name="ff.net.2")(value * nn.gelu(gate, approximate=False))


class Transformer(nn.Module):
    """x + proj_out(block(proj_in(GroupNorm(x)), context)), pixels as tokens: (n, h, w, c), (n, k, e) -> (n, h, w, c).

    `linear` projections are what SD 2 has; SD 1 has convolutions of size 1, whose weights are of another shape.
    """

    heads: int
    groups: int
    linear: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, context):
        n, h, w, c = x.shape

        def project(y, name):
            layer = Dense(c, self.dtype, name=name) if self.linear else Conv(c, 1, dtype=self.dtype, name=name)
            return layer(y)

        y = GroupNorm(self.groups, TRANSFORMER_EPSILON, self.dtype, name="norm")(x)
        tokens = project(y, "proj_in").reshape(n, h * w, c)
        tokens = TransformerBlock(self.heads, self.dtype, name="transformer_blocks.0")(tokens, context)
        return x + project(tokens.reshape(n, h, w, c), "proj_out")
