"""The weights that the authors of ResShift, SinSR and TAD-SR published: where they are, and on what terms.

RELEASES   name -> Release; a U-Net's name is that of its preset in `convert/presets.py`
find       the name by any spelling of it or of its file        files_of   what a release consists of

Addresses are those in the authors' code. Sizes are computed from the networks' parameters, so they are "about".
No checksums are known: `download` records what comes first and holds every later file against it.
"""

import dataclasses
import difflib
import re

RESSHIFT = "https://github.com/zsyOAOA/ResShift"
SINSR = "https://github.com/wyf0912/SinSR"
TADSR = "https://github.com/LearningHx/TAD-SR"

UNET, UNET_FACES, UNET_MASKED = 118_593_583, 118_931_604, 118_714_399  # parameters
VQ_F4, VQ_F8 = 55_322_782, 77_009_115
# Constant buffers in a U-Net's file: 18 int64 tables of 64 x 64 relative positions; two masks of 64 x 64 for each of
# 64, 16 and 4 windows in float32.
UNET_BUFFER_BYTES = 18 * 64 * 64 * 8 + 2 * (64 + 16 + 4) * 64 * 64 * 4


@dataclasses.dataclass(frozen=True)
class Release:
    """One file of weights."""

    file: str
    repository: str  # of its authors
    tags: tuple[str, ...]  # of the releases there that hold the file, the preferred one first; () where none does
    part: str  # "unet" or "autoencoder"
    task: str
    parameters: int
    scale: int | None = None  # output pixels per input pixel; None: of an autoencoder
    steps: int | None = None  # that its authors sample with
    needs: str | None = None  # the autoencoder that it was trained with, a name in RELEASES
    sha256: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the file is, to be tried in this order."""
        return tuple(f"{self.repository}/releases/download/{tag}/{self.file}" for tag in self.tags)

    @property
    def about_bytes(self) -> int:
        """What the file should take: four bytes a parameter, and the buffers."""
        return 4 * self.parameters + (UNET_BUFFER_BYTES if self.part == "unet" else 0)

    @property
    def licence(self) -> str:
        terms = "the authors' own" if self.repository == TADSR else "for non-commercial use"
        return f"{terms}, see the LICENSE file of {self.repository}"


def _autoencoder(file: str, task: str, parameters: int, *tags: str) -> Release:
    return Release(file, RESSHIFT, tags, "autoencoder", task, parameters)


def _resshift(file: str, task: str, steps: int, *, scale=4, parameters=UNET, needs="vq-f4", tag="v2.0") -> Release:
    return Release(file, RESSHIFT, (tag,), "unet", task, parameters, scale, steps, needs)


def _one_step(file: str, task: str, repository: str, *tags: str, scale=4, parameters=UNET, needs="vq-f4") -> Release:
    return Release(file, repository, tags, "unet", task, parameters, scale, 1, needs)


RELEASES = {
    "vq-f4": _autoencoder("autoencoder_vq_f4.pth", "autoencoder, photographs", VQ_F4, "v2.0", "v1.0"),
    "vq-f4-face": _autoencoder("celeba256_vq_f4_dim3_face.pth", "autoencoder, filling in faces", VQ_F4, "v2.0"),
    "vq-f8-face": _autoencoder("ffhq512_vq_f8_dim8_face.pth", "autoencoder, restoring faces", VQ_F8, "v2.0"),
    "resshift-realsr-v1": _resshift("resshift_realsrx4_s15_v1.pth", "photographs", 15),
    "resshift-realsr-v2": _resshift("resshift_realsrx4_s15_v2.pth", "photographs, trained longer", 15),
    "resshift-realsr-v3": _resshift("resshift_realsrx4_s4_v3.pth", "photographs, journal version", 4),
    "resshift-bicsr": _resshift("resshift_bicsrx4_s4.pth", "pictures shrunk by MATLAB's bicubic", 4),
    "resshift-inpaint-imagenet": _resshift(
        "resshift_inpainting_imagenet_s4.pth", "filling in masked areas", 4, scale=1, parameters=UNET_MASKED
    ),
    "resshift-inpaint-face": _resshift(
        "resshift_inpainting_face_s4.pth",
        "filling in masked areas, faces",
        4,
        scale=1,
        parameters=UNET_MASKED,
        needs="vq-f4-face",
    ),
    "resshift-faceir": _resshift(
        "resshift_faceir_s4.pth", "restoring faces", 4, scale=1, parameters=UNET_FACES, needs="vq-f8-face"
    ),
    "resshift-realsr-v0": _resshift("resshift_realsrx4_s15.pth", "photographs, first release", 15, tag="v1.0"),
    "resshift-bicsr-opencv": _resshift(
        "resshift_bicsrx4_opencv_s15.pth", "pictures shrunk by OpenCV's bicubic, first release", 15, tag="v1.0"
    ),
    "resshift-bicsr-matlab": _resshift(
        "resshift_bicsrx4_matlab_s15.pth", "pictures shrunk by MATLAB's bicubic, first release", 15, tag="v1.0"
    ),
    "sinsr-v1": _one_step("SinSR_v1.pth", "photographs (RealSet65, ImageNet-Test)", SINSR, "v1.0"),
    "sinsr-v2": _one_step("SinSR_v2.pth", "photographs (RealSR), stopped early", SINSR, "v1.0"),
    "tad-sr": _one_step("TAD-SR.pth", "photographs", TADSR),
    "tad-faceir": _one_step(
        "TAD-faceir.pth", "restoring faces", TADSR, scale=1, parameters=UNET_FACES, needs="vq-f8-face"
    ),
}

ONLY_CONFIGURED = "resshift-realsr-x2"  # a preset without weights


def find(name: str) -> str:
    """The key of RELEASES that `name` means: the key or its file, in any spelling of case, dashes and suffix.

    "resshift-" may be left out. ValueError for everything else.
    """
    letters = _letters(re.sub(r"\.(pth|pt|ckpt|safetensors)$", "", name))
    if letters in ("x2", "realsrx2", _letters(ONLY_CONFIGURED)):
        raise ValueError(f"{ONLY_CONFIGURED}: its authors published a configuration, but no weights; train your own.")
    for key, release in RELEASES.items():
        if letters in (_letters(key), _letters(key.removeprefix("resshift-")), _letters(release.file[: -len(".pth")])):
            return key
    near = difflib.get_close_matches(name.lower(), RELEASES, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f"no release is called {name!r}; expected one of {', '.join(RELEASES)}.{hint}")


def files_of(name: str) -> list[Release]:
    """The file of a release and, after it, that of the autoencoder it needs. ValueError for an unknown name."""
    release = RELEASES[find(name)]
    return [release] if release.needs is None else [release, RELEASES[release.needs]]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
