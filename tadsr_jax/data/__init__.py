"""Pictures in, batches out: the host side of training. NumPy alone reaches the rest of the house.

sources.py    where pictures come from: folder, list, pairs, prepared, records, tfds, demo
files.py      names in folders, and what the files hold      prepared.py   folders of the public scripts
examples.py   one picture -> one pair: choose, cut, flip, degrade
pipeline.py   pairs -> batches in worker processes (grain); fixed pairs for validation; checks of the settings
demo.py       the photographs that ship with the package
"""

from tadsr_jax.data.pipeline import Stream, check, training_stream, validation_pairs
