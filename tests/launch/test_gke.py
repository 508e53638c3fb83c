"""The same on GKE: what is asked of xpk and kubectl."""

import pytest

WHERE = ["--cluster=f2jax", "--project=project", "--zone=zone-1-a"]
TRAIN = ["train", "--config", "configs/nano.py:stage=1", "--workdir", "gs://b/x", "--config.x=('it''s',)"]


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, ["--num-slices=1", "--spot"]),
        ({"SLICES": "4", "CAPACITY": "on_demand"}, ["--num-slices=4", "--on-demand"]),
        ({"CAPACITY": "reserved", "GKE_RESERVATION": "mine"}, ["--num-slices=1", "--reservation=mine"]),
        ({"TPU_TYPE": "tpu7x:2x2x4"}, ["--num-slices=1", "--spot"]),
    ],
)
def test_create_makes_a_cluster_with_the_slices(launch, settings, flags):
    kind = settings.get("TPU_TYPE", "v5p-16").replace(":", "-")
    assert launch("gke.sh", "create", **settings).returncode == 0
    assert launch.calls("xpk") == [["cluster", "create", f"--tpu-type={kind}", *flags, *WHERE]]


def test_run_sends_this_commit_and_restarts_what_a_restart_can_mend(launch):
    keep = 'for word; do case $word in --script-dir=*) cp -r "${word#*=}" "$CLOUD/sent" ;; esac; done'
    launch.program(launch.cloud / "bin/xpk", f'printf "%s\\n" "$@" >"$CLOUD/xpk"; {keep}')
    (launch.checkout / "runs").mkdir()  # ignored by git
    assert launch("gke.sh", "run", "nano-1", *TRAIN, WORKER_ENV="A='1 2'").returncode == 0
    words = launch.read("xpk")
    assert {"--workload=nano-1", "--max-restarts=2", "--restart-on-exit-codes=70,75"} <= set(words)
    assert next(word for word in words if word.startswith("--command=")) == (
        "--command=pip install -q '.[tpu,eval]' || exit 75; exec env A='1 2' f2jax train --config"
        " configs/nano.py:stage=1 --workdir gs://b/x '--config.x=('\\''it'\\'''\\''s'\\'',)'"
    )
    sent = launch.cloud / "sent"
    assert (sent / "COMMIT").read_text().strip() == launch.git("rev-parse", "HEAD")
    assert (sent / "configs/nano.py").exists() and not (sent / "runs").exists()


def test_run_wants_a_workdir_that_outlives_the_machines(launch):
    done = launch("gke.sh", "run", "nano-1", "train", "--config", "configs/nano.py:stage=1", "--workdir", "runs/one")
    assert done.returncode == 1 and done.stderr.endswith("give train a --workdir on gs://.\n")
    assert not launch.calls("xpk")


def test_run_copies_the_data_before_the_command(launch):
    launch.program(launch.cloud / "bin/xpk", 'printf "%s\\n" "$@" >"$CLOUD/xpk"')
    assert launch("gke.sh", "run", "nano-1", *TRAIN, DATA="gs://b/corpus").returncode == 0
    command = next(word for word in launch.read("xpk") if word.startswith("--command="))
    install, copy, run = (
        command.split("; ", 1)[0],
        command[command.index("python -c") : command.index("; exec")],
        command,
    )
    assert install == "--command=pip install -q '.[tpu,eval]' || exit 75"
    assert copy.endswith("' gs://b/corpus/ /tmp/f2jax-data/ || exit 75")
    assert "; exec env  f2jax train" in run


def test_status_logs_and_stop_ask_for_one_workload(launch):
    for argv in (["status"], ["status", "nano-1"], ["logs", "nano-1"], ["stop", "nano-1"]):
        assert launch("gke.sh", *argv).returncode == 0
    assert launch.calls("xpk") == [
        ["workload", "list", *WHERE],
        ["workload", "list", "--wait-for-job-completion=nano-1", *WHERE],
        ["workload", "delete", "--workload=nano-1", "--force", *WHERE],
    ]
    assert launch.calls("gcloud") == [
        ["container", "clusters", "get-credentials", "f2jax", "--project=project", "--region=zone-1"]
    ]
    (call,) = launch.calls("kubectl")
    assert call[0] == "logs" and call[-1] == "--selector=jobset.sigs.k8s.io/jobset-name=nano-1"


def test_delete_asks_first(launch):
    assert launch("gke.sh", "delete", answer="\n").returncode == 1
    assert launch.calls("xpk") == []
    assert launch("gke.sh", "delete", answer="y\n").returncode == 0
    assert launch.calls("xpk") == [["cluster", "delete", "--force", *WHERE]]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["begin"], "gke.sh has no command 'begin'; there are create, run, status, logs, stop and delete."),
        (
            ["run", "--config"],
            "name the workload, with at most 40 lowercase letters, digits and -: launch/gke.sh run NAME.",
        ),
        (["run", "nano-1"], "say what to run: launch/gke.sh run nano-1 train --config … --workdir gs://…"),
    ],
)
def test_a_wrong_command_is_one_sentence(launch, argv, sentence):
    done = launch("gke.sh", *argv)
    assert (done.returncode, done.stderr) == (1, f"launch: {sentence}\n")


def test_reserved_capacity_needs_its_name(launch):
    done = launch("gke.sh", "create", CAPACITY="reserved")
    assert done.stderr == "launch: CAPACITY=reserved needs the name of the reservation: GKE_RESERVATION.\n"
