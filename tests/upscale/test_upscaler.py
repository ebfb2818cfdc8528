"""The Python door, on a model that can be worked out by hand (`toys.repeating_bundle`): what is around the network."""

import concurrent.futures
import dataclasses
import functools
import os
import subprocess
import sys
import tracemalloc
import warnings

import jax
import numpy as np
import pytest
from PIL import Image, ImageCms

from tadsr_jax.upscale import enlargement, grid, noise
from tadsr_jax.upscale.enlargement import BadResult
from tadsr_jax.upscale.upscaler import Upscaler
from tests.toys import repeating_bundle

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(20, 236, (23, 37, 3), dtype=np.uint8)


def upscaler(**settings):
    return Upscaler(repeating_bundle(**settings))


def blocks(pixels, scale=4):
    return pixels.repeat(scale, 0).repeat(scale, 1)


def expected(pixels, *, seed=0, scale=4, gain=0.01):
    """What the model makes of levels of 8 bits: blocks, and the noise of the latent that lies there."""
    h, w, _ = pixels.shape
    brighter = gain * noise.region(seed, top=0, left=0, height=h, width=w, channels=2)[..., :1]
    signed = blocks(pixels / 127.5 - 1 + brighter, scale)
    return np.rint((np.clip(signed, -1, 1) + 1) * 127.5)


# ---- pictures in, pictures out ---------------------------------------------------------------------------------------


def test_a_picture_is_enlarged_with_the_noise_of_its_seed():
    got = upscaler()(PHOTO, seed=5)
    assert got.dtype == np.uint8 and got.shape == (92, 148, 3)
    np.testing.assert_allclose(got, expected(PHOTO, seed=5), atol=1)  # rounding of halves
    assert np.abs(got - expected(PHOTO, seed=6)).max() > 3


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (500, 3)])
def test_any_size_will_do(size):
    picture = RNG.integers(20, 236, (*size, 3), dtype=np.uint8)
    np.testing.assert_allclose(upscaler()(picture), expected(picture), atol=1)


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_result_is_of_the_kind_of_the_input(channels, dtype):
    shape = (9, 12) if channels is None else (9, 12, channels)
    picture = RNG.uniform(0.1, 0.9, shape)
    picture = picture.astype(np.float32) if dtype == np.float32 else (picture * np.iinfo(dtype).max).astype(dtype)
    got = upscaler()(picture)
    assert got.dtype == dtype
    assert got.shape == ((36, 48) if channels in (None, 1) else (36, 48, channels))


def test_16_bits_are_not_cut_to_8():
    ramp = np.linspace(10000, 10200, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint16)
    bundle = repeating_bundle()
    bundle.params["student"]["gain"] = np.float32(0)
    np.testing.assert_allclose(Upscaler(bundle)(ramp), blocks(ramp), atol=1)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_pil_image_gives_a_pil_image_of_its_mode(mode):
    got = upscaler()(Image.fromarray(PHOTO).convert(mode))
    assert isinstance(got, Image.Image) and got.mode == mode and got.size == (148, 92)


def test_a_pil_image_keeps_its_profile_and_its_tags():
    image = Image.fromarray(PHOTO)
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = image.getexif()
    exif[0x010E], exif[0x0112] = "a face", 6
    image.info["exif"] = exif.tobytes()
    got = upscaler()(image)
    assert got.size == (92, 148), "turned upright"
    assert got.info["icc_profile"] == image.info["icc_profile"]
    assert (got.getexif()[0x010E], got.getexif().get(0x0112, 1)) == ("a face", 1)


def test_a_list_gives_a_list_and_every_picture_is_what_it_is_alone():
    pictures = [PHOTO, PHOTO[:5, :7], Image.fromarray(PHOTO[:, :9]), PHOTO[..., 0]]
    up = upscaler()
    for together, picture in zip(up(pictures), pictures):
        np.testing.assert_array_equal(np.asarray(together), np.asarray(up(picture)))
    assert up([]) == []


def test_alpha_is_enlarged_and_what_it_hides_leaves_no_halo():
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[4:12, 4:12] = (200, 60, 40, 255)  # opaque red on transparent black
    got = upscaler()(picture).astype(int)
    assert got[..., 3].max() == 255 and got[0, 0, 3] == 0 and got[32, 32, 3] == 255
    seen = got[got[..., 3] > 0]
    np.testing.assert_allclose(seen[:, :3], np.broadcast_to((200, 60, 40), (len(seen), 3)), atol=6)  # no black


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "size"), [(2, (46, 74)), (3, (69, 111)), (1, (23, 37)), (6, (138, 222)), (2.5, (58, 92))]
)
def test_another_scale_is_a_last_resampling(scale, size):
    got = upscaler()(PHOTO, scale=scale)
    assert got.shape[:2] == size and got.dtype == np.uint8
    assert abs(float(got.mean()) - PHOTO.mean()) < 1


def test_given_noise_takes_the_place_of_the_seeds():
    up = upscaler()
    h, w = 24, 40  # padded to multiples of 4
    given = noise.region(9, top=0, left=0, height=h, width=w, channels=2)
    want = up(PHOTO, seed=9, tile=None)
    np.testing.assert_array_equal(up(PHOTO, noise=given, tile=None), want)
    np.testing.assert_array_equal(up(PHOTO, noise=given.transpose(2, 0, 1)[None], tile="none"), want)  # as PyTorch
    with pytest.raises(ValueError, match=r"noise has shape \(23, 37, 2\); expected \(24, 40, 2\) or \(2, 24, 40\)"):
        up(PHOTO, noise=given[:23, :37], tile=None)


def test_a_stochastic_sampler_gets_noise_for_the_start_and_for_every_step():
    up = upscaler()
    where = {"top": 0, "left": 0, "height": 24, "width": 40, "channels": 2}
    given = np.stack([noise.region(9, draw=draw, **where) for draw in range(4)])
    got = up(PHOTO, steps=3, sampler="stochastic", seed=9, tile=None)
    np.testing.assert_array_equal(up(PHOTO, steps=3, sampler="stochastic", noise=given, tile=None), got)
    one_step = up(PHOTO, steps=1, sampler="stochastic", seed=9, tile=None)
    np.testing.assert_array_equal(one_step, up(PHOTO, steps=1, sampler="deterministic", seed=9, tile=None))


def test_steps_sampler_and_colour_fix_default_to_what_the_bundle_says():
    seen = []
    bundle = repeating_bundle(steps=3, sampler="stochastic")
    up = Upscaler(bundle)
    compiled = up._program
    up._program = lambda *key: seen.append(key) or compiled(*key)
    up(PHOTO)
    (_, _, options, _), *_ = seen
    assert options.steps == 3 and options.stochastic


@pytest.mark.parametrize("fix", ["adain", "wavelet"])
def test_a_colour_fix_takes_the_colours_of_the_input_however_the_picture_is_cut(fix):
    picture = np.clip(PHOTO.astype(int) // 2 + np.array([90, 40, 0]), 0, 255).astype(np.uint8)
    up = Upscaler(repeating_bundle(color_fix=fix))
    sample = up._family.sample
    tinted = lambda params, lq, noise, **rest: sample(params, lq, noise, **rest) * 0.5 + np.float32([0.4, 0, -0.4])
    up._sample = jax.jit(tinted, static_argnames=("steps", "stochastic"))
    whole = up(picture, tile=None)
    np.testing.assert_allclose(whole.mean((0, 1)), picture.mean((0, 1)), atol=2)
    assert np.abs(up(picture, color_fix="none").mean((0, 1)) - picture.mean((0, 1))).max() > 20
    assert np.abs(up(picture, tile=8).astype(int) - whole).max() <= 1


def test_known_pixels_are_pasted_back_where_a_model_fills_in():
    up = upscaler(scale=1, multiple=8, factor=4, extras=("mask",))
    mask = np.zeros((23, 37), np.uint8)
    mask[5:10, 6:20] = 255
    got = up(PHOTO, mask=mask)
    np.testing.assert_array_equal(got[mask == 0], PHOTO[mask == 0])
    np.testing.assert_allclose(got[mask > 0], 0.75 * 255, atol=6)  # where the model was told to fill in
    with pytest.raises(ValueError, match="give mask="):
        up(PHOTO)
    with pytest.raises(ValueError, match="takes no mask"):
        upscaler()(PHOTO, mask=mask)
    with pytest.raises(ValueError, match="expected none for a model that keeps what is known"):
        up(PHOTO, mask=mask, color_fix="adain")
    with pytest.raises(ValueError, match="the mask marks nothing: its largest value is 1; 255 is unknown"):
        up(PHOTO, mask=mask // 255)
    with pytest.raises(ValueError, match="the mask is of int64; expected bool, uint8"):
        up(PHOTO, mask=mask.astype(np.int64))
    np.testing.assert_array_equal(up(PHOTO, mask=mask > 0), got)
    with pytest.raises(ValueError, match=r"the mask has shape \(22, 37\); expected \(23, 37\)"):
        up(PHOTO, mask=mask[1:])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": 0}, "steps is 0; expected a whole number from 1 to 4."),
        ({"steps": 5}, "steps is 5; expected a whole number from 1 to 4."),
        ({"seed": -1}, "seed is -1; expected a whole number from 0 to"),
        ({"tile": 6}, "tile is 6; expected a multiple of 4 for this model, such as 8."),
        ({"tile": "big"}, "tile is 'big'; expected auto, none, or a side in pixels."),
        ({"scale": 0}, "scale is 0; expected a number above 0"),
        ({"scale": 0.001}, "a picture of 37x23 has no pixel left at scale 0.001."),
        ({"batch": 0}, "batch is 0; expected a whole number from 1"),
        ({"sampler": "euler"}, "sampler is 'euler'; expected deterministic or stochastic."),
        ({"color_fix": "lab"}, "color_fix is 'lab'; expected none, wavelet, adain."),
    ],
)
def test_wrong_options_are_told_before_anything_is_compiled(option, message):
    up = upscaler()
    with pytest.raises(ValueError) as error:
        up(PHOTO, **option)
    assert str(error.value).startswith(message)
    assert up._family.networks["traces"] == []


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), "the picture has shape (4, 4, 5); expected (h, w) grey"),
        (np.zeros((0, 4, 3), np.uint8), "the picture has shape (0, 4, 3)"),
        (np.zeros((4, 4, 3), np.int64), "the picture is of int64; expected uint8, uint16"),
        (np.full((4, 4, 3), 255.0), "the picture is of floats, and some are not in [0, 1]"),
        ("photo.png", "the picture is a str; expected an array, a PIL image, or a list of them."),
        (np.full((4, 4, 3), np.nan), "the picture is of floats, and some are not in [0, 1]"),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(ValueError) as error:
        upscaler()(picture)
    assert str(error.value).startswith(message)


# ---- tiles, batches, devices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"tile": 8}, {"tile": 16, "batch": 3}, {"tile": 8, "batch": 7}, {"batch": 4}])
def test_tiles_and_batches_make_no_difference_to_a_model_that_sees_one_pixel(options):
    large = RNG.integers(20, 236, (61, 83, 3), dtype=np.uint8)
    got, whole = upscaler()(large, **options), upscaler()(large, tile=None)
    assert np.abs(got.astype(int) - whole).max() <= 1  # the last bit of a sum of shares


def test_noise_belongs_to_latent_places_where_latents_are_coarser_than_pixels():
    up = upscaler(scale=1, multiple=8, factor=4)  # a latent for 4 x 4 pixels
    large = RNG.integers(20, 236, (61, 83, 3), dtype=np.uint8)
    assert np.abs(up(large, tile=16).astype(int) - up(large, tile=None)).max() <= 1


def test_fifty_sizes_compile_a_few_shapes():
    up = upscaler()
    sizes = RNG.integers(1, 300, (50, 2))
    up([np.zeros((h, w, 3), np.uint8) for h, w in sizes])
    assert len(up._programs) == len(up._family.networks["traces"]) <= 9


def test_progress_counts_tiles():
    seen = []
    upscaler()(PHOTO, tile=16, progress=lambda done, total: seen.append((done, total)))
    total = seen[-1][1]
    assert seen == [(i + 1, total) for i in range(total)] and total > 2


def test_threads_take_turns_and_get_what_they_asked_for():
    up = upscaler()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda seed: up(PHOTO, seed=seed, tile=16), range(8)))
    for seed, picture in enumerate(made):
        np.testing.assert_array_equal(picture, up(PHOTO, seed=seed, tile=16))


DEVICES = """
import sys
import jax, numpy as np
from tadsr_jax.upscale.upscaler import Upscaler
from tests.toys import repeating_bundle
rng = np.random.default_rng(0)
pictures = [rng.integers(20, 236, size, dtype=np.uint8) for size in [(61, 83, 3), (9, 9, 3), (5, 30, 3)]]
up = Upscaler(repeating_bundle())
assert up.together() == up.together(2) / 2 == len(jax.devices()) == int(sys.argv[1])
np.savez(sys.argv[2], *up(pictures, tile=16, batch=2))
"""


def test_all_devices_serve_and_the_pictures_are_the_same(tmp_path):
    made = []
    for count in (1, 4):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        out = tmp_path / f"{count}.npz"
        subprocess.run(
            [sys.executable, "-c", DEVICES, str(count), out], env=os.environ | {"XLA_FLAGS": flags}, check=True
        )
        made.append(np.load(out))
    for name in made[0].files:
        np.testing.assert_array_equal(made[0][name], made[1][name])


def test_host_memory_is_the_result_and_a_row_of_tiles():
    up = upscaler(multiple=64)
    picture = np.tile(PHOTO, (66, 41, 1))[:1500, :1500]
    up(picture[:128, :128], tile=128)  # compiled before it is measured
    tracemalloc.start()
    result = up(picture, tile=128)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    band = 512 * result.shape[1] * 3 * 4  # float32 rows of one tile's height
    assert result.nbytes == 108_000_000
    assert peak < result.nbytes + 4 * band + 10 * picture.nbytes + 20e6, f"{peak / 1e6:.0f} MB"


# ---- what can go wrong -----------------------------------------------------------------------------------------------


def failing(up, kinds):
    """The upscaler, its program raising or spoiling results in turn: "memory", "nan", "blank", or None for none."""
    compiled, kinds = up._program, iter(kinds)

    def program(key, *args, **kwargs):
        kind = next(kinds, None)
        if kind == "memory":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte.")
        result = np.array(compiled(*key)(*args, **kwargs))
        if kind == "nan":
            result[0, 0, 0, 0] = np.nan
        return np.zeros_like(result) if kind == "blank" else result

    up._program = lambda *key: functools.partial(program, key)
    return up


def test_out_of_memory_means_smaller_batches_then_smaller_tiles_and_a_message():
    large = RNG.integers(20, 236, (61, 83, 3), dtype=np.uint8)
    want = upscaler()(large, tile=16)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        got = failing(upscaler(), [None, "memory", None, "memory"])(large, tile=32, batch=2)
    assert [str(one.message) for one in told] == [
        "out of memory on cpu: going on with one tile at a time.",
        "out of memory on cpu: going on with tiles of 16.",
    ]
    assert np.abs(got.astype(int) - want).max() <= 1


def test_out_of_memory_with_the_smallest_tile_is_an_error_of_one_line():
    with (
        pytest.raises(ValueError, match="out of memory on cpu, and tiles can be no smaller"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        failing(upscaler(), ["memory"] * 20)(PHOTO, tile=32)


def listening_bundle():
    """A model that can be told words, of which it takes their number, less what its texts hold, and the first pixel."""
    heard = []

    def request(texts, *, steps, prompt="", loud=False):
        heard.append(prompt)
        if "quiet" in prompt:
            raise ValueError("expected no quiet words.")
        return len(prompt.split()) - len(texts)

    def prepare(params, request, picture):
        return {"told": np.float32(0.1 * request + 0.05 * picture[0, 0, 0])}

    bundle = repeating_bundle()
    family = dataclasses.replace(bundle.family, request=request, prepare=prepare)
    return dataclasses.replace(bundle, family=family, texts={"tags.txt": ""}), heard


def test_what_a_family_tells_of_a_picture_reaches_all_its_tiles_and_those_of_no_other():
    bundle, _ = listening_bundle()
    bundle = dataclasses.replace(bundle, params={"student": {"gain": np.float32(0)}})
    up = Upscaler(bundle)
    pictures = [np.full((20, 30, 3), level, np.uint8) for level in (51, 102)]  # -0.6 and -0.2 of [-1, 1]
    for options in ({"tile": None}, {"tile": 8, "batch": 5}):
        first, second = up(pictures, prompt="a red cat", **options)
        np.testing.assert_array_equal(first, np.rint(127.5 * (1 - 0.6 + 0.2 - 0.03)))
        np.testing.assert_array_equal(second, np.rint(127.5 * (1 - 0.2 + 0.2 - 0.01)))


def test_words_that_a_family_refuses_or_does_not_know_are_told_before_anything_is_compiled():
    bundle, heard = listening_bundle()
    up = Upscaler(bundle)
    for call in (up, lambda _, **words: up.grid(24, 40, **words), lambda _, **words: up.plan(24, 40, **words)):
        with pytest.raises(ValueError, match="expected no quiet words"):
            call(PHOTO, prompt="quiet")
        with pytest.raises(
            ValueError, match=r"promt is 'x', which is no option of this model; it has .*, loud, .*, prompt"
        ):
            call(PHOTO, promt="x")
    with pytest.raises(
        ValueError, match="prompt is 'a cat', which is no option of this model; it has batch, color_fix"
    ):
        Upscaler(repeating_bundle())(PHOTO, prompt="a cat")
    assert not bundle.family.networks["traces"] and heard == ["quiet"] * 3


def test_a_picture_too_small_for_the_model_is_enlarged_before_and_comes_back_at_its_scale():
    bundle = dataclasses.replace(repeating_bundle(smallest=64), params={"student": {"gain": np.float32(0)}})
    up = Upscaler(bundle)
    small = np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8)
    made = up(small, tile=None)
    assert made.shape == (64, 160, 3) and bundle.family.networks["traces"] == [(1, 64, 160, 3)]
    pillow = np.asarray(Image.fromarray(small).resize((160, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(made, pillow)  # each of its pixels four times and back
    assert up(small.astype(np.uint16) * 257, tile=None, scale=2).shape == (32, 80, 3)
    assert up.plan(16, 40).output == (64, 160)


@pytest.mark.parametrize("fix", ["none", "adain"])
def test_small_pictures_of_all_kinds_come_back_in_theirs(fix):
    bundle = repeating_bundle(smallest=32)
    up = Upscaler(dataclasses.replace(bundle, params={"student": {"gain": np.float32(0)}}))
    rgb = np.full((8, 20, 3), 100, np.uint8)
    kinds = [rgb, rgb[..., 0], np.dstack([rgb, np.full((8, 20), 255, np.uint8)]), rgb.astype(np.uint16) * 257]
    kinds += [(rgb / 255).astype(np.float32), np.full((40, 50, 3), 100, np.uint8)]
    for source, made in zip(kinds, up(kinds, color_fix=fix, tile=32), strict=True):
        assert made.dtype == source.dtype and made.shape == (
            4 * source.shape[0],
            4 * source.shape[1],
            *source.shape[2:],
        )
        np.testing.assert_allclose(made[..., :3] if made.ndim == 3 else made, source.flat[0], rtol=2e-3)
    assert up(rgb, scale=0.5).shape == (4, 10, 3)


def test_what_a_small_picture_is_told_comes_from_the_picture_as_it_is():
    seen = []
    bundle, _ = listening_bundle()
    family = dataclasses.replace(
        bundle.family, smallest=64, prepare=lambda params, request, picture: seen.append(picture) or {}
    )
    Upscaler(dataclasses.replace(bundle, family=family))(PHOTO)
    (picture,) = seen
    np.testing.assert_allclose(picture, PHOTO / 127.5 - 1, atol=1e-6)


def test_noise_for_a_small_picture_has_the_shape_of_what_the_model_sees():
    with pytest.raises(ValueError, match=r"expected \(64, 160, 2\) .* for this picture of 40x16, .* sees as 160x64"):
        upscaler(smallest=64)(np.zeros((16, 40, 3), np.uint8), noise=np.zeros((16, 40, 2)), tile=None)


def test_tiles_are_no_smaller_than_the_model_was_made_for_nor_larger_by_default():
    up = upscaler(smallest=64)
    with pytest.raises(ValueError, match="tile is 32; this model sees 64 pixels a side, or more"):
        up(PHOTO, tile=32)
    family = dataclasses.replace(repeating_bundle().family, largest=96)
    assert [grid.auto_tile(family, platform) for platform in ("cpu", "gpu")] == [96, 96]
    assert grid.auto_tile(repeating_bundle().family, "gpu") == 256
    assert grid.smaller_tile(128, dataclasses.replace(family, smallest=64)) == 64
    assert grid.smaller_tile(96, dataclasses.replace(family, smallest=64)) is None


def test_tiles_start_at_whole_cells_of_the_coarsest_level():
    family = dataclasses.replace(repeating_bundle(multiple=2, factor=8).family, stride=16)
    cut = grid.make_grid(300, 701, family=family, tile=128)
    assert all(start % 16 == 0 for start in (*cut.rows, *cut.columns))
    assert cut.padded == (304, 704) and len(cut) == 3 * 7
    assert grid.make_grid(300, 701, family=family, tile=None).padded == (300, 702)


def test_a_bundle_may_allow_fewer_steps_than_its_family():
    up = upscaler(longest=2)
    assert up(PHOTO, steps=2).shape == (92, 148, 3)
    with pytest.raises(ValueError, match="steps is 3; expected a whole number from 1 to 2"):
        up(PHOTO, steps=3)


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((64, 100), (128, 200)),
        ((200, 100), (256, 128)),
        ((128, 128), (128, 128)),
        ((131, 150), (131, 150)),
        ((49, 98), (128, 256)),  # 128 / 49 * 49 is 127.99999999999999
    ],
)
def test_the_shorter_side_of_a_small_picture_becomes_the_smallest_allowed_one(size, seen):
    assert enlargement.seen_size(*size, 128) == seen


@pytest.mark.parametrize(("kind", "message"), [("nan", "not finite"), ("blank", "blank where the picture is not")])
def test_a_result_that_is_no_picture_is_an_error(kind, message):
    with pytest.raises(BadResult, match=message):
        failing(upscaler(), [kind])(PHOTO)


def test_a_blank_result_of_a_blank_picture_is_right():
    flat = np.full((8, 8, 3), 77, np.uint8)
    assert failing(upscaler(), ["blank"])(flat).shape == (32, 32, 3)


# ---- before the work -------------------------------------------------------------------------------------------------


def test_a_plan_says_what_a_picture_takes():
    plan = upscaler().plan(300, 200, tile=128, scale=2)
    assert plan.tile == (128, 128) and plan.output == (600, 400)
    assert plan.tiles == 6  # 3 rows and 2 columns of 128 that overlap by 16
    assert plan.memory_bytes > 128 * 128 * 3 * 4 * 17 and plan.seconds > 0
    assert str(plan).startswith("6 tile(s) of 128x128 -> 400x600 pixels, 0.0")


def test_a_plan_measures_a_shape_once_and_says_where_memory_is_short(monkeypatch):
    up = upscaler()
    for height in range(260, 300):
        up.plan(height, 200, tile=128)
    traced = len(up._family.networks["traces"])
    up.plan(400, 400, tile=128)
    assert len(up._family.networks["traces"]) == traced
    monkeypatch.setattr(up, "_memory", lambda: 1000)
    plan = up.plan(3000, 200, tile=None)
    assert plan.seconds is None and str(plan).endswith("GiB on the device, which it does not have")


def test_after_warming_up_nothing_is_compiled():
    up = upscaler()
    up.warmup([(100, 100), (300, 100)])
    traces = len(up._family.networks["traces"])
    up([np.zeros((90, 128, 3), np.uint8), np.zeros((250, 120, 3), np.uint8)])
    assert len(up._family.networks["traces"]) == traces
