"""A stand-in for gcloud, xpk and kubectl: it writes down each call and plays a slice whose machines are folders.

usage: stub_cloud.py PROGRAM ARGUMENT…   with CLOUD, a folder:
    calls.jsonl      what was asked, one list of words a line
    states           what `describe` answers, a line each time; the last one stays; no file: there is no slice
    granted          the states after `create`; default: ACTIVE
    refusal          what `create` says when it fails
    machines/N/      the home of worker N; a command over ssh runs there, for real
    groups           process groups of the runs on the machines
    unreachable      workers that do not answer, one a line
    workers          how many machines a slice has
    trouble-VERB     why the verb (describe, create, delete) fails, a line each time; an empty line: it does not
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

cloud = Path(os.environ["CLOUD"])


def lines(name: str) -> list[str]:
    return (cloud / name).read_text().splitlines() if (cloud / name).exists() else []


def fail(message: str, code: int = 1):
    print(f"ERROR: (gcloud.compute.tpus) {message}", file=sys.stderr)
    sys.exit(code)


def option(argv: list[str], name: str) -> str:
    return next(word.split("=", 1)[1] for word in argv if word.startswith(f"--{name}="))


def machines(which: str) -> list[Path]:
    every = sorted((cloud / "machines").iterdir())
    return every if which == "all" else [every[int(which)]]


def create(argv: list[str]) -> None:
    if lines("refusal"):
        fail(lines("refusal")[0])
    shutil.copy(cloud / "granted", cloud / "states")
    for number in range(int(lines("workers")[0])):
        (cloud / "machines" / str(number)).mkdir(parents=True)


def trouble(verb: str) -> None:
    """Fail if it is time to."""
    name = f"trouble-{verb}"
    if now := lines(name):
        rest = cloud / f"{name}.rest"  # renamed: a test looks at the file meanwhile
        rest.write_text("".join(f"{line}\n" for line in now[1:]))
        rest.rename(cloud / name)
        if now[0]:
            fail(now[0])


def describe(argv: list[str]) -> None:
    states = lines("states")
    if not states:
        fail("NOT_FOUND: Resource 'queuedResources/f2jax' was not found")
    print(states[0])
    if states[1:]:
        (cloud / "states").write_text("\n".join(states[1:]) + "\n")


def delete(argv: list[str]) -> None:
    (cloud / "states").unlink()
    (cloud / "unreachable").unlink(missing_ok=True)
    for group in lines("groups"):  # what runs on a machine ends with it
        subprocess.run(["kill", "-KILL", "--", f"-{group.strip()}"], stderr=subprocess.DEVNULL)
    (cloud / "groups").unlink(missing_ok=True)
    shutil.rmtree(cloud / "machines")


def ssh(argv: list[str]) -> None:
    code = 0
    for machine in machines(option(argv, "worker")):
        if machine.name in lines("unreachable"):
            code = 255
            continue
        environment = os.environ | {"HOME": str(machine), "PATH": f"{cloud}/worker-bin:{os.environ['PATH']}"}
        code = subprocess.run(["bash", "-c", option(argv, "command")], env=environment).returncode or code
    sys.exit(code)


def scp(argv: list[str]) -> None:
    for machine in machines("all"):
        shutil.copy(argv[0], machine / "f2jax.tar.gz")


def main() -> None:
    program, *argv = sys.argv[1:]
    with open(cloud / "calls.jsonl", "a") as file:
        file.write(json.dumps([program, *argv]) + "\n")
    if argv[:3] == ["compute", "tpus", "queued-resources"]:
        verbs = {"create": create, "describe": describe, "delete": delete, "ssh": ssh, "scp": scp}
        trouble(argv[3])
        if argv[3] in verbs:
            verbs[argv[3]](argv[4:])
    elif argv[:4] == ["compute", "tpus", "tpu-vm", "describe"]:
        print("2026-01-01T00:00:00.000000Z")


main()
