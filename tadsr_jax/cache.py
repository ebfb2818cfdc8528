"""The persistent compilation cache: what was compiled once on this machine is not compiled again by the next process.

enable   switches it on      release_memory   gives back what compiling took

TADSR_CACHE_DIR names its folder; the default is in the user's cache folder; empty switches it off.
"""

import ctypes
import hashlib
import os
import platform
import sys
from pathlib import Path

import jax
import platformdirs

VARIABLE = "TADSR_CACHE_DIR"


def enable() -> Path | None:
    """Switch jax's persistent cache on, unless the user has given jax a folder, or none. Returns our folder."""
    if jax.config.jax_compilation_cache_dir or os.environ.get(VARIABLE) == "":
        return None
    root = Path(os.environ.get(VARIABLE) or platformdirs.user_cache_path("tadsr_jax"))
    folder = root / f"jax-{jax.__version__}-{_machine()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    return folder


def release_memory() -> None:
    """Give the memory back that a compiler has left free within the process: 0.7 GB after a full-size network.

    The C library of Linux keeps it otherwise, scattered, and what runs next would come on top.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc
        trim(0)


def _machine() -> str:
    """A short name of this kind of CPU: programs compiled for one kind can crash on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:  # not Linux
        about = [platform.processor()]
    return hashlib.sha256("\n".join([platform.machine(), *about]).encode()).hexdigest()[:12]
