import pytest

from tadsr_jax.families import seesr_input

pytestmark = pytest.mark.quick


def test_sides_of_an_enlarged_picture_are_cut_to_multiples_of_eight():
    sizes = seesr_input.sizes(131, 150)
    assert sizes.lq == (131, 150)
    assert sizes.enlarged == sizes.output == (524, 600)
    assert sizes.network == (520, 600)


def test_a_small_picture_is_made_large_enough_first():
    sizes = seesr_input.sizes(64, 100)  # doubled: 128 x 200
    assert sizes == ((128, 200), (512, 800), (512, 800), (256, 400))
    assert seesr_input.sizes(200, 100).lq == (256, 128)
    assert seesr_input.sizes(128, 128).lq == (128, 128)


def test_the_smaller_side_becomes_the_smallest_allowed_one_exactly():
    for side in range(1, 128):  # 128 / 49 * 49 is 127.99999999999999
        assert seesr_input.sizes(side, 2 * side).lq == (128, 256)


def test_another_scale_has_another_smallest_picture():
    assert seesr_input.sizes(300, 100, scale=2) == ((768, 256), (1536, 512), (1536, 512), (600, 200))
    assert seesr_input.sizes(9, 7, scale=1, smallest=0) == ((9, 7), (9, 7), (8, 8), (9, 7))


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="The picture is 0x5; expected at least one pixel a side"):
        seesr_input.sizes(0, 5)


def test_a_prompt_is_tags_then_words_then_those_always_added():
    added = seesr_input.ADDED_WORDS["seesr"]
    assert seesr_input.prompt("cat, dog", added=added) == "cat, dog, ,clean, high-resolution, 8k"
    assert seesr_input.prompt("cat", "in a garden", added="sharp") == "cat, in a garden,sharp"
    assert seesr_input.prompt("cat").endswith("8k, extremely detailed, best quality, sharp")
