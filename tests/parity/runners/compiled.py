"""Networks are built and compiled once for all cases of a configuration; no cases of its own."""

import functools
import json

RUNNERS = {}
QUICKLY = {
    "xla_backend_optimization_level": 0
}  # for what runs once or twice, on small pictures: compiling takes the time


def cached(build):
    """`build(**config)` once for a configuration; what it returns may compile once."""
    of_text = functools.lru_cache(maxsize=8)(lambda text: build(**json.loads(text)))
    return lambda config: of_text(json.dumps(config, sort_keys=True))
