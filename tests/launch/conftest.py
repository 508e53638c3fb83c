"""The scripts of launch/ in a small checkout, beside a stand-in for Google Cloud (stub_cloud.py)."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("stub_cloud.py")

# What a worker finds on its PATH. f2jax ends as the plan of its machine says, one word for each start, the last one for
# all later starts: a number is the exit code; `hang` runs until SIGTERM, saves and ends with 130; `preempt` takes the
# slice away.
WORKER = {
    "hostname": 'basename "$HOME"',
    "uv": """
case $1 in
    venv) mkdir -p "${@: -1}/bin" && cp "$CLOUD/worker-bin/python" "${@: -1}/bin/python" ;;
    pip) [ ! -e "$CLOUD/uv-fails-on-$(hostname)" ] || { echo "no such package" >&2; exit 2; }
         cp "$CLOUD/worker-bin/f2jax" "$(dirname "$5")/f2jax" ;;
esac""",
    "python": 'cat "$CLOUD/versions-$(hostname)" 2>/dev/null || echo f2jax=1,jax=2,libtpu=3',
    "f2jax": """
echo x >>"$CLOUD/starts-$(hostname)"
ps -o pgid= -p $$ >>"$CLOUD/groups"
line="$(hostname)$(printf '\\t%s' "$@")"
printf '%s\\n' "$line" >>"$CLOUD/f2jax-calls"  # at once, because two hosts write to it
word=$(head -n "$(wc -l <"$CLOUD/starts-$(hostname)")" "$CLOUD/plan-$(hostname)" | tail -n 1)
echo "f2jax: the message of $word"
trap 'echo saved; exit 130' TERM
[ "$word" != preempt ] || echo SUSPENDED >"$CLOUD/states"
case $word in hang | preempt) while :; do sleep 0.05; done ;; *) exit "$word" ;; esac""",
}


class Launch:
    """A checkout with launch/ and configs/, and a cloud; `launch("run.sh", …)` runs a script there."""

    def __init__(self, folder: Path):
        self.checkout, self.cloud = folder / "checkout", folder / "cloud"
        shutil.copytree(ROOT / "launch", self.checkout / "launch", ignore=shutil.ignore_patterns("env.sh"))
        shutil.copytree(ROOT / "configs", self.checkout / "configs", ignore=shutil.ignore_patterns("__pycache__"))
        (self.checkout / ".gitignore").write_text("/runs/\n")
        self.git("init", "-q")
        self.commit()
        for name in ("gcloud", "xpk", "kubectl"):
            self.program(self.cloud / "bin" / name, f'exec {sys.executable} -S -E {STUB} {name} "$@"')
        for name, text in WORKER.items():
            self.program(self.cloud / "worker-bin" / name, text)
        self.write("granted", "ACTIVE")
        self.machines(2)
        self.settings = {
            "PROJECT": "project",
            "ZONE": "zone-1-a",
            "TPU_TYPE": "v5p-16",  # 8 chips on 2 machines
            "POLL": "0.05",
            "BACKOFF": "0",
            "GRACE": "1",
            "RETRIES": "2",
            "SILENCE": "2",
            "PYTHON": "true",  # checks pass; tests of the checks name a Python
        }

    def git(self, *argv: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        command = ["git", *identity, *argv]
        return subprocess.run(command, cwd=self.checkout, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "a commit")

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text.strip()}\n")
        path.chmod(0o755)

    def write(self, name: str, *lines: str) -> None:
        (self.cloud / name).write_text("".join(f"{line}\n" for line in lines))

    def read(self, name: str) -> list[str]:
        path = self.cloud / name
        return path.read_text().splitlines() if path.exists() else []

    def machines(self, count: int) -> None:
        self.write("workers", str(count))

    def plan(self, *words: str, **of_worker: str) -> None:
        """What f2jax does at its first, second, … start, on all workers or as worker0="…" says for one."""
        for number in range(int(self.read("workers")[0])):
            self.write(f"plan-{number}", *of_worker.get(f"worker{number}", " ".join(words)).split())

    def start(self, *argv: str, **settings: str) -> subprocess.Popen:
        script, *rest = map(str, argv)
        environment = os.environ | self.settings | settings | {"CLOUD": str(self.cloud)}
        environment["PATH"] = f"{self.cloud}/bin:{environment['PATH']}"
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        command = [str(self.checkout / "launch" / script), *rest]
        return subprocess.Popen(command, env=environment, cwd=self.checkout, text=True, **pipes)

    def __call__(self, *argv: str, answer: str = "", **settings: str) -> subprocess.CompletedProcess:
        return self.end(self.start(*argv, **settings), answer)

    def end(self, process: subprocess.Popen, answer: str = "", seconds: float = 600) -> subprocess.CompletedProcess:
        """Wait for a script that was started; one that does not end is killed, and the test fails."""
        try:
            out, err = process.communicate(answer, timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def calls(self, program: str = "gcloud") -> list[list[str]]:
        """The calls of a program so far; those about the slice by their verb alone: [create, …]."""
        calls = [json.loads(line) for line in self.read("calls.jsonl")]
        calls = [words for name, *words in calls if name == program]
        prefix = ["compute", "tpus", "queued-resources"]
        return [words[3:] if words[:3] == prefix else words for words in calls]

    def verbs(self, *leave_out: str) -> list[str]:
        return [call[0] for call in self.calls() if call[0] not in leave_out]

    def f2jax_calls(self) -> list[list[str]]:
        """[worker, word, …] for each start of f2jax, sorted by worker."""
        return sorted(line.split("\t") for line in self.read("f2jax-calls"))


def wait_for(condition, process: subprocess.Popen) -> None:
    """Until the condition holds; a script that does not come so far is killed, and the test fails."""
    deadline = time.monotonic() + 600
    while not condition():
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail("the script did not come so far")
        time.sleep(0.02)


@pytest.fixture
def launch(tmp_path) -> Launch:
    if sys.platform != "linux":
        pytest.skip("workers of a slice run Linux")
    stand = Launch(tmp_path)
    yield stand
    for group in stand.read("groups"):  # runs are detached: end those that are left
        subprocess.run(["kill", "-KILL", "--", f"-{group.strip()}"], stderr=subprocess.DEVNULL)
