"""A slice from nothing and back: what is asked of Google Cloud, and what is said when it refuses."""

import subprocess

import pytest

from tests.launch.conftest import ROOT


@pytest.mark.parametrize(
    ("tpu_type", "accelerator", "runtime", "chips", "workers"),
    # By hand from Google's pages of the generations: chips, then machines (VMs) of the slice.
    [
        ("v4-8", "v4-8", "tpu-ubuntu2204-base", 4, 1),
        ("v4:2x2x4", "v4-32", "tpu-ubuntu2204-base", 16, 4),
        ("v5litepod-1", "v5litepod-1", "v2-alpha-tpuv5-lite", 1, 1),
        ("v5litepod-8", "v5litepod-8", "v2-alpha-tpuv5-lite", 8, 1),
        ("v5e:4x4", "v5litepod-16", "v2-alpha-tpuv5-lite", 16, 4),
        ("v5e:16x16", "v5litepod-256", "v2-alpha-tpuv5-lite", 256, 64),
        ("v5p-8", "v5p-8", "v2-alpha-tpuv5", 4, 1),
        ("v5p:4x4x8", "v5p-256", "v2-alpha-tpuv5", 128, 32),
        ("v6e-8", "v6e-8", "v2-alpha-tpuv6e", 8, 1),
        ("v6e:16x16", "v6e-256", "v2-alpha-tpuv6e", 256, 64),
    ],
)
def test_a_tpu_type_is_understood_as_plan_and_as_google_write_it(tpu_type, accelerator, runtime, chips, workers):
    script = f". {ROOT}/launch/lib.sh; TPU_TYPE={tpu_type} SLICES=1; tpu_type"
    found = subprocess.run(
        ["bash", "-c", f'{script}; echo "$ACCELERATOR $RUNTIME $CHIPS $WORKERS"'], capture_output=True, text=True
    )
    assert found.stdout.split() == [accelerator, runtime, str(chips), str(workers)]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"PROJECT": ""}, "PROJECT is not set; copy launch/env.example.sh to launch/env.sh and fill it in."),
        ({"TPU_TYPE": "v9z-8"}, "TPU_TYPE=v9z-8 is unknown; write v6e:4x4, or v6e-16; there are v4, v5e, v5p and v6e."),
        ({"TPU_TYPE": "v6e"}, "TPU_TYPE=v6e is unknown"),
        ({"TPU_TYPE": "v6e:4y4"}, "TPU_TYPE=v6e:4y4 has no size; write v6e:4x4, or v6e-16."),
        ({"TPU_TYPE": "tpu7x:2x2x1"}, "TPU_TYPE=tpu7x:2x2x1 is only available on GKE: launch/gke.sh."),
        ({"CAPACITY": "cheap"}, "CAPACITY=cheap is unknown; it is spot, reserved or on_demand."),
        ({"SLICES": "none"}, "SLICES=none should be a whole number, at least 1."),
    ],
)
def test_a_wrong_setting_is_one_sentence(launch, settings, sentence):
    done = launch("create.sh", **settings)
    assert done.returncode == 1
    assert done.stderr.startswith(f"launch: {sentence}") and done.stderr.count("\n") == 1
    assert launch.calls() == []


def test_a_missing_gcloud_is_one_sentence(launch):
    (launch.cloud / "bin/gcloud").unlink()
    tools = launch.cloud / "tools"  # a PATH without the machine's own gcloud
    tools.mkdir()
    for name in ("bash", "env", "dirname", "mktemp", "rm"):
        (tools / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    command = ["env", "-i", f"PATH={tools}", "PROJECT=p", launch.checkout / "launch/create.sh"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "launch: gcloud is not installed; get it from https://cloud.google.com/sdk/docs/install.\n"


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, ["--node-id=f2jax", "--spot"]),
        ({"CAPACITY": "reserved"}, ["--node-id=f2jax", "--reserved"]),
        ({"CAPACITY": "on_demand"}, ["--node-id=f2jax"]),
        ({"SLICES": "3", "TPU_NAME": "many"}, ["--node-count=3", "--node-prefix=many", "--spot"]),
        ({"CREATE_FLAGS": "--network=n --labels=a=b"}, ["--node-id=f2jax", "--spot", "--network=n", "--labels=a=b"]),
    ],
)
def test_create_asks_for_the_slice_of_the_settings(launch, settings, flags):
    assert launch("create.sh", **settings).returncode == 0
    (call,) = (call for call in launch.calls() if call[0] == "create")
    assert call[1:] == [
        settings.get("TPU_NAME", "f2jax"),
        "--accelerator-type=v5p-16",
        "--runtime-version=v2-alpha-tpuv5",
        "--valid-until-duration=24h",
        *flags,
        "--project=project",
        "--zone=zone-1-a",
        "--quiet",
    ]


def test_create_waits_in_the_queue_until_the_slice_is_there(launch):
    launch.write("granted", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = launch("create.sh")
    assert done.returncode == 0
    order = [done.stderr.index(state) for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")]
    assert order == sorted(order)


def test_create_leaves_a_slice_alone_that_is_there(launch):
    launch("create.sh")
    assert launch("create.sh").returncode == 0
    assert launch.verbs("describe") == ["create"]


@pytest.mark.parametrize("states", [["SUSPENDED"], ["SUSPENDING", "SUSPENDED"], ["FAILED"]], ids="-".join)
def test_create_makes_a_slice_anew_that_was_taken_away(launch, states):
    launch("create.sh")
    launch.write("states", *states)
    assert launch("create.sh").returncode == 0
    assert launch.verbs("describe") == ["create", "delete", "create"]


def test_create_says_when_there_is_no_capacity_and_that_another_try_is_worth_it(launch):
    launch.write("granted", "WAITING_FOR_RESOURCES", "FAILED")
    done = launch("create.sh")
    assert done.returncode == 75
    assert done.stderr.endswith("launch: no v5p-16 was to be had (FAILED); the same command asks again.\n")


def test_create_says_where_to_ask_for_quota(launch):
    launch.write("refusal", "RESOURCE_EXHAUSTED: Quota limit 'TPUV5pPerProjectPerZone' has been exceeded.")
    done = launch("create.sh")
    assert done.returncode == 1
    assert "launch: no quota for 8 chips of v5p-16 (spot) in zone-1-a; ask for it at" in done.stderr


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("UNAVAILABLE: The service is currently unavailable.", 75),
        ("RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Write requests' and limit 'per minute'", 75),
        ("There was a problem refreshing your current auth tokens: timed out", 75),
        ("PERMISSION_DENIED: Cloud TPU API has not been used in project 123 before.", 1),
        ("INVALID_ARGUMENT: the accelerator v5p-16 was not found in zone-1-a", 1),
        ("unrecognized arguments: --netwrk=n", 1),
        ("You do not currently have an active account selected. Please run: gcloud auth login", 1),
    ],
)
def test_create_tells_what_a_person_must_mend_from_what_may_go_well_on_another_try(launch, reason, code):
    launch.write("refusal", reason)
    done = launch("create.sh")
    assert done.returncode == code and reason in done.stderr
    assert ("The same command tries again." in done.stderr) == (code == 75)


def test_a_dry_run_prints_the_calls_and_makes_none(launch):
    done = launch("create.sh", "--dry_run")
    assert done.returncode == 0
    assert "+ gcloud compute tpus queued-resources create f2jax --accelerator-type=v5p-16" in done.stderr
    assert launch.calls() == []


def test_calls_are_printed_before_they_are_made_and_can_be_typed(launch):
    done = launch("create.sh", CREATE_FLAGS="--description=it's")
    line = next(line for line in done.stderr.splitlines() if line.startswith("+") and " create " in line)
    (call,) = (call for call in launch.calls() if call[0] == "create")
    typed = subprocess.check_output(["bash", "-c", f"printf '%s\\n' {line[2:]}"], text=True).splitlines()
    assert typed[4:] == call


def test_setup_puts_the_same_commit_on_every_worker_and_is_quick_the_second_time(launch):
    launch("create.sh")
    done = launch("setup.sh")
    commit = launch.git("rev-parse", "HEAD")
    assert done.returncode == 0
    assert done.stderr.endswith(f"2 workers have {commit[:12]} (f2jax=1,jax=2,libtpu=3).\n")
    for number in "01":
        home = launch.cloud / "machines" / number
        assert (home / "f2jax/launch/worker.sh").read_text() == (ROOT / "launch/worker.sh").read_text()
        assert (home / "f2jax-run/ready").read_text().split()[0] == commit

    assert launch("setup.sh").returncode == 0
    assert launch.verbs().count("scp") == 1

    launch.commit()
    assert launch("setup.sh").returncode == 0
    assert launch.verbs().count("scp") == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"DATA": "gs://b/corpus"},
        {"DATA_DIR": "other", "DATA": "gs://b/corpus"},
        {"EXTRAS": "tpu"},
        {"PYTHON_VERSION": "3.13"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_setup_is_done_again_where_a_setting_of_it_has_changed(launch, changed):
    settings = {"DATA_DIR": "data", "DATA": "gs://b/corpus"} if "DATA_DIR" in changed else {}
    launch("create.sh")
    assert launch("setup.sh", **settings).returncode == 0
    for _ in range(2):
        assert launch("setup.sh", **settings | changed).returncode == 0
    assert launch.verbs().count("scp") == 2
    copied = [call[-2:] for call in launch.calls() if call[:2] == ["storage", "rsync"]]
    if "DATA" in changed:
        assert copied[-2:] == 2 * [["gs://b/corpus", changed.get("DATA_DIR", "/tmp/f2jax-data")]]


def test_setup_names_the_worker_that_failed_and_may_be_tried_again(launch):
    launch("create.sh")
    launch.write("uv-fails-on-1")
    done = launch("setup.sh")
    assert done.returncode == 75
    assert "1: set-up failed" in done.stdout and "0: set-up failed" not in done.stdout
    assert "not all of 2 workers are ready" in done.stderr

    (launch.cloud / "uv-fails-on-1").unlink()
    assert launch("setup.sh").returncode == 0


def test_setup_does_not_accept_workers_whose_versions_differ(launch):
    launch("create.sh")
    launch.write("versions-1", "f2jax=1,jax=9,libtpu=3")
    done = launch("setup.sh")
    assert done.returncode == 75
    assert "jax=2" in done.stderr and "jax=9" in done.stderr


def test_setup_refuses_changes_that_no_commit_holds(launch):
    launch("create.sh")
    (launch.checkout / "configs/new.py").write_text("")
    done = launch("setup.sh")
    assert done.returncode == 1
    assert "?? configs/new.py" in done.stderr
    assert "these changes are not committed; commit them" in done.stderr
    assert "scp" not in launch.verbs()


def test_setup_without_a_slice_says_what_makes_one(launch):
    done = launch("setup.sh")
    assert done.returncode == 1
    assert done.stderr.endswith("launch: slice f2jax does not exist (state NONE); launch/create.sh creates it.\n")


def test_setup_on_a_slice_that_goes_away_is_worth_another_try(launch):
    launch("create.sh")
    launch.write("states", "SUSPENDING")
    done = launch("setup.sh")
    assert done.returncode == 75
    assert done.stderr.endswith(
        "launch: slice f2jax is SUSPENDING; launch/create.sh waits for it, or creates it again.\n"
    )


def test_delete_asks_first(launch):
    launch("create.sh")
    refused = launch("delete.sh", answer="n\n")
    assert refused.returncode == 1
    assert "Delete slice f2jax (ACTIVE, 8 chips, zone-1-a)" in refused.stderr
    assert "delete" not in launch.verbs()

    assert launch("delete.sh", answer="y\n").returncode == 0
    assert [call[:3] for call in launch.calls() if call[0] == "delete"] == [["delete", "f2jax", "--force"]]


def test_delete_lists_what_is_left_and_costs(launch):
    launch("delete.sh", "--yes", BUCKET="gs://bucket/f2jax")
    assert launch.verbs("describe")[-2:] == ["list", "storage"]
    assert launch.calls()[-1] == ["storage", "du", "--summarize", "--readable-sizes", "gs://bucket/f2jax"]


def test_fetch_leaves_checkpoints_unless_they_are_asked_for(launch):
    assert launch("fetch.sh", "gs://bucket/runs/one").returncode == 0
    assert launch("fetch.sh", "--checkpoints", "gs://bucket/runs/one/", "here").returncode == 0
    source = "gs://bucket/runs/one"
    assert launch.calls() == [
        ["storage", "rsync", "--recursive", "--exclude=(^|.*/)checkpoints/.*", source, "runs/one"],
        ["storage", "rsync", "--recursive", source, "here"],
    ]
