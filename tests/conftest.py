"""One compilation cache for the whole test run: workers and the commands that tests start compile a program once."""

import gc
import os
import shutil
import sys
import tempfile

import pytest

CACHE = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config):
    if CACHE in os.environ:  # a worker of pytest-xdist, or somebody's own cache
        return
    # Environment variables reach workers and commands; jax is not imported here, so that collecting stays quick.
    config.shared_cache = os.environ[CACHE] = tempfile.mkdtemp(prefix="tadsr-jax-tests-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def pytest_unconfigure(config):
    if cache := getattr(config, "shared_cache", None):
        shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _free_programs():
    """What a file compiled goes with it: a worker would come to hold ten gigabytes."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        gc.collect()
