import pytest

from tadsr_jax import releases
from tadsr_jax.convert import presets
from tadsr_jax.releases import RELEASES

pytestmark = pytest.mark.quick


def test_every_unet_has_a_preset_of_its_name_that_agrees_with_it():
    for name, release in RELEASES.items():
        if release.part == "unet":
            preset = presets.PRESETS[name]
            assert (release.scale, release.steps) == (preset.config["diffusion"]["sf"], preset.steps)
            assert presets.by_file(release.file) == name
    unets = {name for name, release in RELEASES.items() if release.part == "unet"}
    assert set(presets.PRESETS) - unets == {releases.ONLY_CONFIGURED}


def test_the_table_is_that_of_the_authors():
    assert len(RELEASES) == 17
    github = "https://github.com/"
    assert RELEASES["resshift-realsr-v3"].addresses == (
        github + "zsyOAOA/ResShift/releases/download/v2.0/resshift_realsrx4_s4_v3.pth",
    )
    assert RELEASES["resshift-bicsr-opencv"].addresses == (
        github + "zsyOAOA/ResShift/releases/download/v1.0/resshift_bicsrx4_opencv_s15.pth",
    )
    assert RELEASES["sinsr-v2"].addresses == (github + "wyf0912/SinSR/releases/download/v1.0/SinSR_v2.pth",)
    assert RELEASES["tad-sr"].addresses == RELEASES["tad-faceir"].addresses == ()
    for release in RELEASES.values():
        assert "LICENSE file of " + release.repository in release.licence


def test_sizes_are_four_bytes_a_parameter_and_the_buffers():
    assert RELEASES["vq-f4"].about_bytes == 4 * 55_322_782
    assert RELEASES["sinsr-v1"].about_bytes == 4 * 118_593_583 + 589_824 + 2_752_512


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sinsr-v1", "sinsr-v1"),
        ("SinSR_v1.pth", "sinsr-v1"),
        ("SINSR V1", "sinsr-v1"),
        ("realsr-v3", "resshift-realsr-v3"),
        ("resshift_realsrx4_s15", "resshift-realsr-v0"),
        ("autoencoder_vq_f4.pth", "vq-f4"),
        ("TAD-SR", "tad-sr"),
    ],
)
def test_a_release_is_found_by_any_spelling_of_its_name_or_file(name, key):
    assert releases.find(name) == key


def test_no_two_releases_answer_to_one_name():
    for name, release in RELEASES.items():
        assert releases.find(name) == releases.find(release.file) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sinsr-v3", r"no release is called 'sinsr-v3'; expected one of vq-f4, .* Did you mean sinsr-v2\?"),
        ("", "no release is called ''; expected one of"),
        ("x2", "resshift-realsr-x2: its authors published a configuration, but no weights"),
    ],
)
def test_an_unknown_release_is_refused_in_one_line(name, said):
    with pytest.raises(ValueError, match=said) as error:
        releases.find(name)
    assert "\n" not in str(error.value)


def test_a_release_is_its_file_and_the_autoencoder_it_needs():
    assert [file.part for file in releases.files_of("faceir")] == ["unet", "autoencoder"]
    assert releases.files_of("faceir")[1].file == "ffhq512_vq_f8_dim8_face.pth"
    assert releases.files_of("vq-f4") == [RELEASES["vq-f4"]]
