"""The parameters as an Orbax tree, for JAX programs that have networks of their own.

OUTPUT/params          {"student": tree, "autoencoder": tree}, written by Orbax's StandardCheckpointer
OUTPUT/manifest.json   shapes and types of all arrays; the networks' settings, the schedule, where it comes from
OUTPUT/README.md       how to read it
"""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from tadsr_jax.export.source import described
from tadsr_jax.types import Bundle

README = """\
# Parameters of a super-resolution model, as an Orbax tree

```python
import pathlib

import orbax.checkpoint as ocp

tree = ocp.StandardCheckpointer().restore(pathlib.Path("params").absolute())  # nested dicts of arrays
print({name: len(network) for name, network in tree.items()})
```

`tree["student"]` is the denoiser, `tree["autoencoder"]` what makes latents and pictures (absent where that needs no
parameters). Kernels of convolutions are (height, width, in, out), those of dense layers (in, out); pictures are NHWC.
`manifest.json` lists shape and type of every array, path joined by `/`, and the settings of networks and schedule:
`tadsr_jax.families.{family}.build(**settings)` of the package tadsr_jax makes the functions that use them.
"""


def write(folder: Path, model: Bundle) -> None:
    """Fill `folder` with the parameters of a model."""
    # NumPy leaves: an array of jax would bind the files to the devices that it lies on.
    params = {name: jax.tree.map(np.asarray, tree) for name, tree in model.params.items() if jax.tree.leaves(tree)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder).absolute() / "params", params)
    flat = flatten_dict(params, sep="/")
    arrays = {path: {"shape": list(leaf.shape), "dtype": leaf.dtype.name} for path, leaf in flat.items()}
    about = {"format": "orbax"} | described(model) | {"multiple": model.family.multiple, "arrays": arrays}
    (folder / "manifest.json").write_text(json.dumps(about, indent=1) + "\n")
    (folder / "README.md").write_text(README.replace("{family}", str(about.get("family"))))
