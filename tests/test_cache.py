import subprocess
import sys

import pytest

pytestmark = pytest.mark.quick

SCRIPT = "from tadsr_jax import cache; import jax; print(cache.enable()); print(jax.config.jax_compilation_cache_dir)"


def run(env):
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_variable_names_the_folder_and_jax_and_the_machine_a_part_of_it(tmp_path):
    ours, jaxs = run({"TADSR_CACHE_DIR": str(tmp_path)})
    assert ours == jaxs and ours.startswith(f"{tmp_path}/jax-")


def test_the_default_is_in_the_users_cache_folder(tmp_path):
    ours, _ = run({"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)})
    assert "tadsr_jax" in ours and ours.startswith(str(tmp_path))


def test_an_empty_name_switches_it_off():
    assert run({"TADSR_CACHE_DIR": ""}) == ["None", "None"]


def test_a_folder_that_was_given_to_jax_stays(tmp_path):
    assert run({"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}) == ["None", str(tmp_path)]
