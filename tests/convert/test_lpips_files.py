import numpy as np
import pytest
from safetensors.numpy import save_file

from tadsr_jax.convert import lpips, names
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.perceptual import Backbone, head_shapes

pytestmark = pytest.mark.quick


@pytest.fixture
def files(tmp_path):
    """AlexNet's two files as the public ones: a classifier beside the features, twins and buffers beside the heads."""
    backbone = {
        name: np.full(shape, 0.5, np.float32)
        for name, shape in names.public_shapes(abstract_variables(Backbone("alex"))).items()
    }
    backbone["classifier.1.weight"] = np.zeros((3, 2), np.float32)
    heads = {name: np.ones(shape, np.float32) for name, shape in names.public_shapes(head_shapes("alex")).items()}
    heads |= {name.replace("lin", "lins."): np.zeros(1, np.float32) for name in heads}
    heads["scaling_layer.shift"] = np.zeros(3, np.float32)
    save_file(backbone, tmp_path / "alexnet.safetensors")
    save_file(heads, tmp_path / "heads.safetensors")
    return tmp_path / "alexnet.safetensors", tmp_path / "heads.safetensors"


def test_backbone_and_heads_are_read_and_the_rest_is_left_out(files):
    params = lpips.load(*files, net="alex")
    assert params["backbone"]["features.0"]["kernel"].shape == (11, 11, 3, 64)
    assert params["heads"]["lin4.model.1"]["kernel"].shape == (1, 1, 256, 1)
    assert len(params["backbone"]) == len(params["heads"]) == 5


def test_files_of_another_net_and_swapped_files_are_named(files):
    with pytest.raises(ValueError, match=r"alexnet\.safetensors do not fit"):
        lpips.load(*files, net="vgg")
    with pytest.raises(ValueError, match=r"heads\.safetensors do not fit this network.*heads of LPIPS"):
        lpips.load(files[1], files[0], net="alex")
    with pytest.raises(ValueError, match="net is 'squeeze'; expected one of alex, vgg"):
        lpips.load(*files, net="squeeze")


def test_negative_heads_are_refused(files):
    heads = {name: -np.ones(shape, np.float32) for name, shape in names.public_shapes(head_shapes("alex")).items()}
    save_file(heads, files[1])
    with pytest.raises(ValueError, match="negative weights"):
        lpips.load(*files, net="alex")
