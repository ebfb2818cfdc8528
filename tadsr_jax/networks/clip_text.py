"""The text tower of CLIP: token numbers -> one state a token, the words that Stable Diffusion's U-Net attends to.

    ids --token table + position table--> [x + attention(norm1(x)); x + mlp(norm2(x))] * layers --final norm--> states

CLIPTextModel    the public `CLIPTextModel`, its last hidden state        from_public    from its config.json
SD2              the sizes in Stable Diffusion 2
A token sees itself and what stands before it, padding included: there is no other mask. [CLIP, arXiv 2103.00020]
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadsr_jax.networks.layers import Dense, Dtype

ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),  # OpenCLIP, so Stable Diffusion 2
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's CLIP, so Stable Diffusion 1
}
# 23 of OpenCLIP ViT-H/14's 24 layers: what Stable Diffusion 2 wants is the last but one.
SD2 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
# Of a public config.json, what changes nothing here: training, the tokenizer, the projection of the whole text.
INERT = (
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dropout",
    "dtype",
    "eos_token_id",
    "initializer_factor",
    "initializer_range",
    "model_type",
    "pad_token_id",
    "projection_dim",
    "torch_dtype",
    "transformers_version",
)


class Embedding(nn.Module):
    """Rows of a table by their numbers: (...) integers -> (..., features)."""

    rows: int
    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, indices):
        table = self.param("table", nn.initializers.normal(0.02), (self.rows, self.features), jnp.float32)
        return table[indices].astype(self.dtype)


class EncoderLayer(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)), each token with those up to it: (n, l, c) -> the same."""

    num_heads: int
    intermediate_size: int
    hidden_act: str
    epsilon: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        n, length, c = x.shape
        norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype, use_fast_variance=False)
        dense = functools.partial(Dense, dtype=self.dtype)
        y = norm(name="layer_norm1")(x)
        split = (n, length, self.num_heads, c // self.num_heads)
        heads = lambda name: dense(c, name=f"self_attn.{name}")(y).reshape(split)
        q, k, v = heads("q_proj"), heads("k_proj"), heads("v_proj")  # n l h d each
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(n, length, c)
        x = x + dense(c, name="self_attn.out_proj")(y)
        y = dense(self.intermediate_size, name="mlp.fc1")(norm(name="layer_norm2")(x))
        return x + dense(c, name="mlp.fc2")(ACTIVATIONS[self.hidden_act](y))


class CLIPTextModel(nn.Module):
    """Token numbers (n, l), l up to max_position_embeddings -> states (n, l, hidden_size), float32, normalised.

    Fields and their defaults are those of the public `CLIPTextConfig`. Layers run in `dtype`; parameters, norms and
    softmax are float32.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    dtype: Dtype = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; it must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )

    def example_inputs(self) -> tuple:
        """Shapes of a smallest legal call."""
        return (jax.ShapeDtypeStruct((1, 1), jnp.int32),)

    @nn.compact
    def __call__(self, input_ids):
        length = input_ids.shape[1]
        if length > self.max_position_embeddings:
            raise ValueError(
                f"the text has {length} tokens; this encoder reads up to {self.max_position_embeddings}: cut it off."
            )
        table = lambda rows, name: Embedding(rows, self.hidden_size, self.dtype, name=f"text_model.embeddings.{name}")
        x = table(self.vocab_size, "token_embedding")(input_ids)
        x = x + table(self.max_position_embeddings, "position_embedding")(jnp.arange(length))
        for index in range(self.num_hidden_layers):
            x = EncoderLayer(
                self.num_attention_heads,
                self.intermediate_size,
                self.hidden_act,
                self.layer_norm_eps,
                self.dtype,
                name=f"text_model.encoder.layers.{index}",
            )(x)
        final = nn.LayerNorm(epsilon=self.layer_norm_eps, use_fast_variance=False, name="text_model.final_layer_norm")
        return final(x).astype(jnp.float32)


def from_public(**config) -> CLIPTextModel:
    """A text tower from a public configuration (`CLIPTextConfig`, `text_encoder/config.json`), plus our `dtype`.

    Raises ValueError for an activation that it does not know and for unknown keys.
    """
    accepted = [name for name in CLIPTextModel.__dataclass_fields__ if name not in ("parent", "name")]
    config = {key: value for key, value in config.items() if key not in INERT and not key.startswith("_")}
    if unknown := sorted(set(config) - set(accepted)):
        raise ValueError(
            f"Unknown arguments of the text encoder: {', '.join(unknown)}. Accepted: {', '.join(accepted)}."
        )
    return CLIPTextModel(**config)
