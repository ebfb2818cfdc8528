"""RAM, the image tagger that SeeSR is conditioned on: a picture -> states to attend to, and -> tags.

    picture --prepare--> 384x384 --Swin-L--> 1 + 144 tokens --image_proj--> states --tagging head--> one logit a tag

RAM          states of a picture; logits of states        from_public    from the public vision and q2l configurations
prepare      a picture as RAM takes it                    tags           the tags that are on, as a prompt
DAPE, SeeSR's degradation-aware RAM, is the same network with other weights (`convert.lora`).
[RAM: arXiv 2306.03514; Swin: arXiv 2103.14030; the head, Query2Label: arXiv 2107.10834; DAPE: SeeSR, arXiv 2311.16518]
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.networks.layers import Dense, Dtype
from tadsr_jax.networks.resize import resize
from tadsr_jax.networks.swin_encoder import PATCH, SwinEncoder

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures in [0, 1]


def prepare(picture, *, size: int = 384, mode: str = "bicubic", clip: bool = False):
    """A picture (n, h, w, 3) in [0, 1] as RAM takes it: resized to a square, each channel normalised; float32.

    The public code has three ways, and SeeSR's networks were trained with the second: from the small picture `bilinear`
    at test time; from the enlarged one `bicubic` with `clip` (to [0, 1]) in training; without in AddSR's refinement.
    """
    picture = resize(picture, (size, size), mode=mode)
    picture = jnp.clip(picture, 0, 1) if clip else picture
    return (picture - np.float32(MEAN)) / np.float32(DEVIATION)


def tags(logits, thresholds, labels: Sequence[str]) -> list[str]:
    """For each picture, the labels whose sigmoid(logit) exceeds their threshold, in the order of the list: "cat, dog".

    logits (n, classes), thresholds (classes,) in (0, 1). Raises ValueError unless there is one label for each.
    """
    logits, thresholds = np.asarray(logits, np.float32), np.asarray(thresholds, np.float32)
    if not logits.shape[-1] == len(thresholds) == len(labels):
        raise ValueError(
            f"{len(labels)} labels and {len(thresholds)} thresholds for {logits.shape[-1]} classes; "
            "expected one label and one threshold for each, as in ram_tag_list.txt and ram_tag_list_threshold.txt."
        )
    return [", ".join(labels[k] for k in np.flatnonzero(row)) for row in np.asarray(is_on(logits, thresholds))]


def is_on(logits, thresholds):
    """Which tags a picture has: sigmoid(logit) > threshold, (n, classes) booleans."""
    return nn.sigmoid(logits) > thresholds


class CrossLayer(nn.Module):
    """norm(x + attention(x, states)), then norm(x + mlp(x)): a BERT layer that only looks at the picture.

    x (n, classes, c), states (n, tokens, width) -> (n, classes, c)
    """

    num_heads: int
    intermediate_size: int
    epsilon: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, states):
        n, classes, c = x.shape
        norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype, use_fast_variance=False)
        dense = functools.partial(Dense, dtype=self.dtype)

        def heads(name, y):
            y = dense(c, name=f"crossattention.self.{name}")(y)
            return y.reshape(n, y.shape[1], self.num_heads, c // self.num_heads)  # n l h d

        q, k, v = heads("query", x), heads("key", states), heads("value", states)
        y = jax.nn.dot_product_attention(q, k, v).reshape(n, classes, c)
        y = dense(c, name="crossattention.output.dense")(y)
        x = norm(name="crossattention.output.LayerNorm")(x + y)
        y = nn.gelu(dense(self.intermediate_size, name="intermediate.dense")(x), approximate=False)
        return norm(name="output.LayerNorm")(x + dense(c, name="output.dense")(y))


class RAM(nn.Module):
    """The public `RAM` with Swin-L at 384 pixels, as far as pictures and tags go; its text parts are left out.

    `num_class` None leaves out the tagging head, for which the last five fields are. Layers run in `dtype`;
    parameters, norms, softmax and the last layers are float32.
    """

    image_size: int = 384
    window_size: int = 12
    embed_dim: int = 192
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (6, 12, 24, 48)
    states_dim: int = 512  # of states and label embeddings
    num_class: int | None = 4585
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    layer_norm_eps: float = 1e-12
    dtype: Dtype = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"num_heads is {self.num_heads}; expected {len(self.depths)} numbers, as depths has.")
        for stage, heads in enumerate(self.num_heads):
            side, rest = divmod(self.image_size, PATCH * 2**stage)
            if rest or (side > self.window_size and side % self.window_size):
                raise ValueError(
                    f"image_size is {self.image_size}; stage {stage} has a map of "
                    f"{self.image_size / (PATCH * 2**stage):g} cells a side, which windows of {self.window_size} "
                    f"do not fill: use a multiple of {PATCH * 2 ** (len(self.depths) - 1) * self.window_size}."
                )
            if self.embed_dim * 2**stage % heads:
                raise ValueError(
                    f"num_heads is {self.num_heads}; {self.embed_dim * 2**stage} channels have no {heads}."
                )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; it must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )

    def example_inputs(self) -> tuple:
        """Shapes of a smallest legal call."""
        return (jax.ShapeDtypeStruct((1, self.image_size, self.image_size, 3), jnp.float32),)

    def setup(self):
        self.visual_encoder = SwinEncoder(self.embed_dim, self.depths, self.num_heads, self.window_size, self.dtype)
        self.image_proj = Dense(self.states_dim)
        if self.num_class is None:
            return
        self.label_embed = self.param("label_embed", nn.initializers.normal(1), (self.num_class, self.states_dim))
        self.wordvec_proj = Dense(self.hidden_size, self.dtype)
        self.layers = [
            CrossLayer(
                self.num_attention_heads,
                self.intermediate_size,
                self.layer_norm_eps,
                self.dtype,
                name=f"tagging_head.encoder.layer.{index}",
            )
            for index in range(self.num_hidden_layers)
        ]
        self.fc = Dense(1)

    def __call__(self, image):
        """Prepared picture (n, s, s, 3), s = image_size -> states (n, 1 + tokens, states_dim), float32."""
        if image.shape[1:3] != (self.image_size, self.image_size):
            h, w = image.shape[1:3]
            raise ValueError(
                f"RAM was given a picture of {h}x{w}; `prepare` it at {self.image_size}x{self.image_size}."
            )
        states = self.image_proj(self.visual_encoder(image))
        if self.is_initializing() and self.num_class is not None:
            self.tag_logits(states)
        return states

    def tag_logits(self, states):
        """States (n, 1 + tokens, states_dim) -> logits (n, num_class), float32: one query a label, the same for all."""
        queries = nn.relu(self.wordvec_proj(self.label_embed))
        x = jnp.broadcast_to(queries, (states.shape[0], *queries.shape))
        for layer in self.layers:
            x = layer(x, states)
        return self.fc(x)[..., 0]


# Of the public configurations, what changes nothing here: files, training, and the parts of BERT that are not used.
INERT_VISION = ("ckpt",)
INERT_HEAD = (
    "architectures",
    "attention_probs_dropout_prob",
    "encoder_width",
    "hidden_dropout_prob",
    "initializer_range",
    "max_position_embeddings",
    "model_type",
    "pad_token_id",
    "type_vocab_size",
    "vocab_size",
)
ONLY_HEAD = {"hidden_act": "gelu", "add_cross_attention": True, "add_tag_cross_attention": False}


def from_public(
    *,
    vision: dict,
    q2l: dict | None = None,
    num_class: int = 4585,
    encoder_width: int = 512,
    dtype: Dtype = jnp.float32,
) -> RAM:
    """RAM from its public configurations: `vision` of the Swin, `q2l` of the tagging head; without that, no head.

    Raises ValueError for what this network cannot do and for unknown keys.
    """
    vision = {key: value for key, value in vision.items() if key not in INERT_VISION}
    settings = {"image_size": vision.pop("image_res")} if "image_res" in vision else {}
    settings |= {key: tuple(v) if isinstance(v, list) else v for key, v in vision.items() if key != "vision_width"}
    _check_known("vision", settings, ("image_size", "window_size", "embed_dim", "depths", "num_heads"))
    if q2l is not None:
        head = {key: value for key, value in q2l.items() if key not in (*INERT_HEAD, *ONLY_HEAD)}
        _check_known("q2l", head, ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                   "layer_norm_eps"))  # fmt: skip
        for key, only in ONLY_HEAD.items():
            if q2l.get(key, only) != only:
                raise ValueError(f"{key} is {q2l[key]!r}; this tagging head has {key}={only!r} only.")
        settings |= head
    module = RAM(**settings, num_class=None if q2l is None else num_class, states_dim=encoder_width, dtype=dtype)
    width = module.embed_dim * 2 ** (len(module.depths) - 1)
    if vision.get("vision_width", width) != width:
        raise ValueError(f"vision_width is {vision['vision_width']}; embed_dim and depths make it {width}.")
    return module


def _check_known(section: str, config: dict, accepted: Sequence[str]) -> None:
    if unknown := sorted(set(config) - set(accepted)):
        raise ValueError(f"Unknown arguments of {section}: {', '.join(unknown)}. Accepted: {', '.join(accepted)}.")
