"""A training job: a config becomes a Job (`read`), and a Job becomes a trained model (`run`).

parts.py     config -> family, recipe, optimisers        weights.py   what config.init names
read.py      the whole config, refused before anything is compiled or written where it is wrong
run.py       the teacher first where the config has one; then training, bundle, report, comparison
saved.py     what a run left in its workdir, read again; and the bundle of a state
These files are the only readers of configs.
"""

from tadsr_jax.job.parts import family_settings, parts
from tadsr_jax.job.read import Job, check_workdir, read
from tadsr_jax.job.run import overview, run
from tadsr_jax.job.saved import Saved, saved
