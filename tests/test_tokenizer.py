"""Words as ids: CLIP's rules on a vocabulary small enough to be worked out by hand, and what a folder may be like."""

import json
import pickle
import sys

import numpy as np
import pytest

from tadsr_jax.tokenizer import files_of, open_tokenizer, read
from tests import tiny_tokenizer
from tests.tiny_tokenizer import CAT, COMMA, END, SOFA, START

pytestmark = pytest.mark.quick
tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture
def folder(tmp_path):
    return tiny_tokenizer.write(tmp_path / "sd2")


@pytest.fixture
def ids(folder):
    tokenizer = open_tokenizer(folder)
    return lambda words: tokenizer(words).tolist()


def test_words_become_start_pieces_end_and_padding_up_to_the_length(folder, ids):
    assert ids("cat, sofa") == [START, CAT, COMMA, SOFA, END, 0, 0, 0]
    assert ids("") == [START, END, 0, 0, 0, 0, 0, 0]
    assert open_tokenizer(folder)("cat").dtype == np.int32


def test_words_that_are_not_in_the_vocabulary_are_cut_into_known_pieces(ids):
    assert ids("cats 8k")[1:6] == [20, 3, 14, 18, 19]  # ca t s</w>, and each numeral alone: 8</w> k</w>


def test_the_largest_id_is_known(folder):
    assert open_tokenizer(folder).largest == END == 26


def test_letter_case_and_kinds_of_space_do_not_matter(ids):
    assert ids(" CAT,\n\tSofa\u3000") == ids("cat , sofa") == ids("cat,sofa")


def test_what_is_too_long_is_cut_and_still_ends(ids):
    assert ids("cat " * 20) == [START, *[CAT] * 6, END]


def test_the_padding_token_of_sd2_stays_whole_in_words_as_it_does_for_the_public_code(ids):
    assert ids("cat!!")[:5] == [START, CAT, 0, 0, END]


def test_sd1_pads_with_the_end_token_and_reads_an_exclamation_mark_as_a_word(tmp_path):
    place = tiny_tokenizer.write(tmp_path) / "tokenizer"
    (place / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<|endoftext|>"}}))
    assert open_tokenizer(tmp_path)("cat!").tolist() == [START, CAT, 10, END, END, END, END, END]


def test_newer_settings_outweigh_the_map_of_special_tokens(tmp_path):
    tiny_tokenizer.write(tmp_path, added_tokens_decoder={})
    assert open_tokenizer(tmp_path).padding == END


def test_without_settings_a_prompt_has_77_ids_and_ends_in_end_tokens(tmp_path):
    place = tiny_tokenizer.write(tmp_path) / "tokenizer"
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (place / name).unlink()
    assert open_tokenizer(place)("cat").tolist() == [START, CAT] + [END] * 75


def test_a_length_that_stands_for_an_unknown_one_means_77(tmp_path):
    assert open_tokenizer(tiny_tokenizer.write(tmp_path, model_max_length=10**30)).length == 77


def test_the_folder_of_the_model_and_that_of_its_tokenizer_serve_alike(folder):
    for place in (folder, str(folder / "tokenizer")):
        assert open_tokenizer(place)("sofa")[1] == SOFA


def test_a_file_with_its_own_rules_serves_as_well_whatever_it_cuts_and_pads(folder):
    place = folder / "tokenizer"
    pieces = tokenizers.Tokenizer.from_str(open_tokenizer(folder).pieces.to_str())
    pieces.enable_truncation(2)
    pieces.enable_padding(length=5)
    pieces.save(str(place / "tokenizer.json"))
    (place / "merges.txt").unlink()
    assert open_tokenizer(place)("Cat, sofa!").tolist() == [START, CAT, COMMA, SOFA, 0, END, 0, 0]


def test_a_tokenizer_can_be_sent_to_another_process(folder):
    tokenizer = pickle.loads(pickle.dumps(open_tokenizer(folder)))
    assert tokenizer("cat")[:3].tolist() == [START, CAT, END]


def test_ids_equal_those_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizerFast.from_pretrained(folder / "tokenizer")
    ours = open_tokenizer(folder)
    for words in ("", "cat, sofa, ,8k", "Cats!\n a!b", "it's <|endoftext|> ca\u0301t", "k" * 30):
        want = theirs(words, padding="max_length", truncation=True, max_length=8).input_ids
        assert ours(words).tolist() == want, words


def test_without_the_package_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"not installed; install tadsr_jax\[sd\]"):
        open_tokenizer(folder)


def _without_start(place):
    vocabulary = json.loads((place / "vocab.json").read_text())
    del vocabulary["<|startoftext|>"]
    (place / "vocab.json").write_text(json.dumps(vocabulary))


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda place: (place / "vocab.json").unlink(), "no tokenizer; expected vocab.json and merges.txt"),
        (lambda place: (place / "vocab.json").write_text('{"a": '), "vocab.json: damaged, or no file of a tokenizer"),
        (lambda place: (place / "merges.txt").write_text("x y\n"), "vocab.json: damaged, or no file of a tokenizer"),
        (lambda place: (place / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json: damaged"),
        (_without_start, "the bos_token is '<|startoftext|>', which its vocabulary lacks"),
    ],
)
def test_a_folder_that_cannot_serve_is_told_in_one_line(folder, spoil, words):
    spoil(folder / "tokenizer")
    with pytest.raises(ValueError, match=words) as error:
        open_tokenizer(folder)
    assert "\n" not in str(error.value)


def test_the_texts_of_a_folder_make_the_same_tokenizer_wherever_they_are(folder, tmp_path):
    texts = files_of(folder)
    assert set(texts) == {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}
    moved = tmp_path / "bundle" / "texts"  # as a bundle has them
    moved.mkdir(parents=True)
    for name, text in texts.items():
        (moved / name).write_text(text)
    want = open_tokenizer(folder)("cat, sofa")
    assert read(texts | {"tags.txt": "cat"}, source="texts")("cat, sofa").tolist() == want.tolist()
    assert open_tokenizer(moved.parent)("cat, sofa").tolist() == want.tolist()
