"""The wheel is complete: it has every file of the package and trains outside of a checkout; so does an editable one."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from f2jax import Embedder, __version__
from f2jax.checkpoints import package
from tests import tiny, tiny_model

pytestmark = pytest.mark.slow
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
OFFLINE = ["--no-deps", "--no-index", "--no-build-isolation"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the sources, for setuptools leaves its build folders next to them; a tiny model is its `mini`."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("f2jax", "configs"):
        shutil.copytree(tiny.ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(tiny.ROOT / name, folder)
    shutil.rmtree(folder / "f2jax/models", ignore_errors=True)
    made = tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))
    parts = made.architecture, made.params, made.tokenizer, made.settings
    package.write_package(folder / "f2jax/models/mini", *parts, as_int8=True)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", *OFFLINE, "--wheel-dir", folder, checkout], check=True)
    return folder / f"f2jax-{__version__}-py3-none-any.whl"


def fresh_environment(folder: Path, *package: str) -> Callable[..., str]:
    """Installs the package in an environment of its own, and returns what runs its Python in `folder`.

    What the package needs comes from the environment of the tests, whose own `.pth` files are not read there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"JAX_PLATFORMS": "cpu", "PATH": f"{folder}/venv/bin:{environment['PATH']}"}
    python = folder / "venv/bin/python"

    def run(*argv: str) -> str:
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(str(python), "-m", "pip", "--quiet", "install", "--ignore-installed", *OFFLINE, *package)
    return run


def test_every_file_of_the_package_is_in_the_wheel(checkout, wheel):
    expected = {
        f"f2jax/{path.relative_to(root)}"
        for root in (checkout / "f2jax", checkout)
        for path in root.glob("configs/*" if root == checkout else "**/*")
        if path.is_file() and not path.is_symlink()
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert {"f2jax/models/mini/model.safetensors", "f2jax/models/mini/1_Pooling/config.json"} <= packed
    assert {"f2jax/py.typed", "f2jax/configs/stage2.py", "f2jax/evaluation/published.json"} <= packed


def test_every_file_of_a_model_is_in_the_archive_of_the_sources(checkout, tmp_path):
    program = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=checkout, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    models = {str(path.relative_to(checkout)) for path in checkout.glob("f2jax/models/**/*") if path.is_file()}
    assert models <= packed and len(models) > 5


def test_a_wheel_brings_its_model(checkout, wheel, tmp_path):
    run = fresh_environment(tmp_path, str(wheel))
    program = (
        "from f2jax import Embedder; model = Embedder.from_pretrained('mini'); print(model.fingerprint, model.origin)"
    )
    fingerprint, origin = run("python", "-c", program).split()
    assert fingerprint == Embedder.from_pretrained(checkout / "f2jax/models/mini").fingerprint
    assert Path(origin).is_relative_to(tmp_path)


def test_a_wheel_trains_by_the_name_of_a_config_outside_of_a_checkout(wheel, tmp_path):
    run = fresh_environment(tmp_path, str(wheel))
    assert Path(run("python", "-c", "import f2jax; print(f2jax.__file__)").strip()).is_relative_to(tmp_path)
    options = tiny.overrides(tmp_path, **{"steps": 2, "optim.warmup_steps": 0, "log.every": 1})
    run("f2jax", "train", "--config", "nano:stage=2", "--workdir", "run", *options)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]


def test_an_editable_install_reads_the_configs_of_the_checkout(checkout, tmp_path):
    run = fresh_environment(tmp_path, "--editable", str(checkout))
    with (checkout / "configs/nano.py").open("a") as file:
        file.write("\nEDITED = True\n")
    program = "import f2jax.configs.nano as nano; print(nano.EDITED, nano.__file__)"
    assert run("python", "-c", program) == f"True {checkout}/f2jax/configs/nano.py\n"
    program = "from f2jax import config; print(config.load('stage2:size=80m').model.size)"
    assert run("python", "-c", program) == "80m\n"
