"""What SeeSR's family is told of a picture: prompts, tags, and what a user may ask of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.families import seesr_input
from tadsr_jax.families.seesr_build import build
from tadsr_jax.networks import ram
from tadsr_jax.tokenizer import files_of
from tests import tiny_tokenizer
from tests.tiny_seesr import SETTINGS, random_params
from tests.tiny_tokenizer import CAT, COMMA, END, SOFA, START

quick = pytest.mark.quick
HEAD = {"num_class": 3, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LABELS = {"tags.txt": "cat\nsofa\ncats\n", "thresholds.txt": "0.5\n0.5\n0.5\n"}
picture = np.random.default_rng(0).uniform(-1, 1, (9, 14, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Of a bundle with a tokenizer and a list of tags."""
    return files_of(tiny_tokenizer.write(tmp_path_factory.mktemp("sd2"))) | LABELS


@pytest.fixture(scope="module")
def family():
    """One that can tag, and ends its prompts in "8k"."""
    return build(**SETTINGS | {"tagger": SETTINGS["tagger"] | HEAD, "added_words": "8k"})


@pytest.fixture(scope="module")
def params(family):
    return random_params(family)


@quick
def test_a_prompt_is_tags_then_words_then_those_always_added():
    added = seesr_input.ADDED_WORDS["seesr"]
    assert seesr_input.prompt("cat, dog", added=added) == "cat, dog, ,clean, high-resolution, 8k"
    assert seesr_input.prompt("cat", "in a garden", added="sharp") == "cat, in a garden,sharp"
    assert seesr_input.prompt("cat").endswith("8k, extremely detailed, best quality, sharp")


@quick
def test_tags_have_a_threshold_each():
    labels, thresholds = seesr_input.read_tags({"tags.txt": "cat\r\ntoy dog\n", "thresholds.txt": "0.65\n0.8\n\n"})
    assert labels == ["cat", "toy dog"]
    np.testing.assert_array_equal(thresholds, np.float32([0.65, 0.8]))
    assert seesr_input.read_tags({"vocab.json": "{}"}) is None
    with pytest.raises(ValueError, match="belong together"):
        seesr_input.read_tags({"tags.txt": "cat"})


@quick
@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ("0.5", "2 tags and 1 thresholds"),
        ("0.5 high", "no list of numbers"),
        ("0.5 1.5", "no probabilities"),
        ("0.5 nan", "no probabilities"),
    ],
)
def test_thresholds_that_are_none_are_refused(thresholds, message):
    with pytest.raises(ValueError, match=message):
        seesr_input.read_tags({"tags.txt": "cat\ndog", "thresholds.txt": thresholds})


@quick
@pytest.mark.parametrize(
    ("steps", "words", "message"),
    [
        (1, {"prompt": 3}, "prompt is 3; expected words"),
        (1, {"guidance": 5.5}, r"guidance is 5.5 with 1 step\(s\); the models of up to 4 steps have none"),
        (50, {"guidance": 0.5}, "guidance is 0.5; expected a number, 1 or more"),
        (50, {"guidance": float("nan")}, "guidance is nan; expected"),
        (50, {"guidance": 1, "negative_prompt": "blur"}, "matters with guidance alone"),
        (4, {"negative_prompt": "blur"}, "matters with guidance alone"),
        (1, {"prompt": "a \udcff cat"}, "expected words"),
        (2, {"psr_weight": 1.2}, "psr_weight is 1.2; expected a share from 0 to 1"),
        (1, {"psr_weight": 0.5}, r"psr_weight is 0.5 with 1 step\(s\); it matters for 2 to 4"),
        (50, {"psr_weight": 0.5}, "it matters for 2 to 4"),
        (1, {"start": "gt"}, "start is 'gt'; expected lq or noise"),
    ],
)
def test_what_would_be_without_effect_or_is_impossible_is_refused(texts, steps, words, message):
    with pytest.raises(ValueError, match=message):
        seesr_input.request(texts, steps=steps, **words)


@quick
@pytest.mark.parametrize(
    ("steps", "words"), [(1, {"prompt": "cat"}), (50, {"negative_prompt": "blur"}), (50, {"guidance": 3})]
)
def test_words_need_a_tokenizer(steps, words):
    with pytest.raises(ValueError, match="no tokenizer"):
        seesr_input.request({}, steps=steps, **words)


@quick
def test_the_defaults_are_those_of_the_public_scripts(texts):
    one, many = (seesr_input.request(texts, steps=steps) for steps in (1, 50))
    assert one.negative is None and one.refinement == 0.5 and not one.from_noise
    assert many.guidance == 5.5
    np.testing.assert_array_equal(many.negative, many.tokenizer("dotted, noise, blur, lowres, smooth"))
    assert seesr_input.request(texts, steps=50, guidance=1).negative is None
    with pytest.warns(UserWarning, match="without a tokenizer .* no guidance"):
        assert seesr_input.request({}, steps=50).negative is None


@quick
def test_a_tokenizer_that_the_text_encoder_cannot_read_is_refused(texts):
    assert build(**SETTINGS).request(texts, steps=1, prompt="cat").words == "cat"
    for few, words in (
        ({"vocab_size": 26}, "has 8 tokens with ids up to 26, but the text encoder reads 8 and has 26"),
        ({"max_position_embeddings": 7}, "but the text encoder reads 7 and has 32"),
    ):
        family = build(**SETTINGS | {"text_encoder": SETTINGS["text_encoder"] | few})
        with pytest.raises(ValueError, match=words):
            family.request(texts, steps=1)
        assert family.request({}, steps=1).tokenizer is None


def tokens_of(family, params, request):
    """What the family's text encoder was given: the ids whose states are those that the picture is told."""
    told = family.prepare(params, request, picture)["text"]

    def says(ids):
        states = family.networks["text_encoder"].apply({"params": params["text_encoder"]}, jnp.asarray([ids]))[0]
        return told.shape == states.shape and np.abs(states - told).max() < 1e-4

    return says


def test_tags_and_words_are_said_in_their_order(family, params, texts, monkeypatch):
    monkeypatch.setattr(ram, "tags", lambda logits, thresholds, labels: [", ".join(labels[:2])])
    says = tokens_of(family, params, seesr_input.request(texts, steps=1))
    assert says([START, CAT, COMMA, SOFA, COMMA, COMMA, 18, END])  # "cat, sofa, ,8k", cut at 8
    monkeypatch.setattr(ram, "tags", lambda logits, thresholds, labels: ["cat"])
    says = tokens_of(family, params, seesr_input.request(texts, steps=1, prompt="sofa"))
    assert says([START, CAT, COMMA, SOFA, COMMA, 18, 19, END])  # "cat, sofa,8k"


def test_tags_are_those_that_the_tagger_is_sure_of(family, params, texts):
    seen = {}
    for threshold, tags in (("0.0001", "cat, sofa, cats"), ("0.9999", "")):
        thresholds = {"thresholds.txt": f"{threshold}\n" * 3}
        request = seesr_input.request(texts | thresholds, steps=1)
        seen[tags] = family.prepare(params, request, picture)["text"]
        says = tokens_of(family, params, request)
        assert says(request.tokenizer(seesr_input.prompt(tags, added="8k")).tolist())
    assert np.abs(seen["cat, sofa, cats"] - seen[""]).max() > 1e-2


def test_without_a_tokenizer_nothing_is_said(family, params):
    says = tokens_of(family, params, seesr_input.request({}, steps=1))
    assert says(list(SETTINGS["no_words"]))


def test_the_tagger_sees_the_small_picture(family, params, texts):
    told = family.prepare(params, seesr_input.request(texts, steps=1), picture)
    want = family.states(params, picture[None], mode="bilinear")[0]
    np.testing.assert_allclose(told["image_states"], want, atol=2e-5)
    assert told["from_noise"] == np.bool_(False) and told["refinement"] == np.float32(0.5)


def test_guidance_comes_with_what_it_leads_away_from(family, params, texts):
    told = family.prepare(params, seesr_input.request(texts, steps=50, negative_prompt="sofa", guidance=2), picture)
    tokens = jnp.asarray([[START, SOFA, END, *(0,) * 5]])
    want = family.networks["text_encoder"].apply({"params": params["text_encoder"]}, tokens)[0]
    np.testing.assert_allclose(told["negative_text"], want, atol=1e-5)
    assert told["guidance"] == np.float32(2)
    assert "negative_text" not in family.prepare(params, seesr_input.request(texts, steps=50, guidance=1), picture)
