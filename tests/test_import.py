"""What an import brings along: quick to import, no accelerator started, no other framework."""

import json
import os
import subprocess
import sys

import pytest

from tests import tiny

OTHER_FRAMEWORKS = {"torch", "tensorflow", "transformers", "sentence_transformers"}
HEAVY = OTHER_FRAMEWORKS | {"jax", "flax", "orbax"}


def fresh(code: str, **environment):
    """What `code` prints as JSON, in an interpreter of its own."""
    program = f"import json, sys\ndef modules(): return sorted(sys.modules)\n{code}"
    environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)} | environment
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_imports_nothing_heavy():
    loaded = set(fresh("import f2jax; f2jax.__version__; print(json.dumps(modules()))"))
    assert not loaded & HEAVY
    assert not loaded & {"numpy", "pyarrow", "f2jax.inference.embedder"}


COMMANDS = ("train", "prepare", "encode", "export", "evaluate", "report")


@pytest.mark.parametrize(
    "argv", [["--help"], [], ["--version"], ["trian"], *([command, "--help"] for command in COMMANDS)], ids=str
)
def test_help_imports_no_framework(argv):
    code = f"from f2jax.cli import main; main({argv}); print(); print(json.dumps(modules()))"
    assert not set(fresh(code)) & HEAVY


def test_importing_the_embedder_brings_jax_alone():
    loaded = set(fresh("from f2jax import Embedder; print(json.dumps(modules()))"))
    assert "jax" in loaded
    assert not loaded & OTHER_FRAMEWORKS


def test_importing_the_embedder_starts_no_backend():
    """A platform that does not exist is an error as soon as a backend starts, and not before."""
    start = "import f2jax.cli, f2jax.train.loop; from f2jax import Embedder; import jax"
    assert fresh(f"{start}; print(json.dumps('imported'))", JAX_PLATFORMS="nonsense") == "imported"
    with pytest.raises(subprocess.CalledProcessError):
        fresh(f"{start}; jax.devices()", JAX_PLATFORMS="nonsense")


ALL_MODULES = """
import logging, pkgutil
import absl.logging, fsspec, gcsfs, huggingface_hub, jax, matplotlib, orbax.checkpoint, pyarrow, tokenizers, tqdm
def levels(): return {name: logging.getLogger(name).level for name in [None, *before]}
before = list(logging.root.manager.loggerDict)
first = levels()
import f2jax
from f2jax import files
from f2jax.checkpoints.orbax import Checkpoints
for module in pkgutil.walk_packages(f2jax.__path__, "f2jax."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
with Checkpoints(sys.argv[1]):
    files.exists("memory://x")
print(json.dumps([len(before), {str(name): level for name, level in levels().items() if level != first[name]}]))
"""


def test_no_module_changes_the_log_level_of_another_library(tmp_path):
    count, changed = fresh(ALL_MODULES.replace("sys.argv[1]", repr(str(tmp_path))))
    assert count > 20 and changed == {}


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import f2jax

    with pytest.raises(AttributeError, match="module 'f2jax' has no attribute 'Embeder'"):
        f2jax.Embeder  # noqa: B018
