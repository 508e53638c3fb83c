"""One command on all workers until it is done: what ends a run, and what is done about it."""

import sys

import pytest

from tests.launch.conftest import wait_for

COMMAND = ["train", "--config", "configs/nano.py:stage=1", "--workdir", "gs://bucket/a run", "--config.x=('it''s', )"]


def test_a_run_from_nothing_makes_the_slice_sets_it_up_and_starts_the_same_command_on_every_worker(launch):
    launch.plan("0")
    done = launch("run.sh", *COMMAND)
    assert done.returncode == 0
    assert launch.verbs("describe", "ssh") == ["create", "scp"]
    assert launch.f2jax_calls() == [["0", *COMMAND], ["1", *COMMAND]]


def test_the_settings_of_the_workers_come_before_the_command(launch):
    launch.plan("0")
    launch("run.sh", *COMMAND, WORKER_ENV="A=1 B=2")
    (text,) = {(launch.cloud / f"machines/{n}/f2jax-run/command").read_text() for n in (0, 1)}
    assert text.startswith("A=1 B=2 f2jax train --config")


def test_a_setting_of_the_workers_may_have_spaces_in_quotes(launch):
    launch.program(launch.cloud / "worker-bin/f2jax", 'echo "$A|$LIBTPU_INIT_ARGS" >>"$CLOUD/flags"')
    assert launch("run.sh", *COMMAND, WORKER_ENV="LIBTPU_INIT_ARGS='--a=1 --b=2' A=x").returncode == 0
    assert launch.read("flags") == 2 * ["x|--a=1 --b=2"]


def test_a_user_error_ends_the_run_and_is_shown(launch):
    """f2jax ends with 1 on one worker; the other would wait for it."""
    launch.plan("hang", worker1="1")
    done = launch("run.sh", *COMMAND)
    assert done.returncode == 1
    assert "1: f2jax: the message of 1" in done.stderr
    assert done.stderr.endswith("f2jax says above what to change (exit code 1); then run the same command again.\n")
    assert len(launch.f2jax_calls()) == 2  # no second attempt
    assert (launch.cloud / "machines/0/f2jax-run/exit").read_text() == "130\n"  # the other one saved and stopped


@pytest.mark.parametrize("code", ["70", "130"])
def test_any_other_end_starts_the_same_command_again(launch, code):
    launch.plan(code, "0")
    done = launch("run.sh", *COMMAND)
    assert done.returncode == 0
    assert f"the workers ended with 2 x exit:{code}; restart 1 of 2" in done.stderr
    assert launch.f2jax_calls() == 2 * [["0", *COMMAND]] + 2 * [["1", *COMMAND]]
    assert launch.verbs("describe", "ssh") == ["create", "scp"]  # the slice and its set-up are kept


def test_crashes_in_a_row_are_given_up(launch):
    launch.plan("70", "70", "70", "0")
    done = launch("run.sh", *COMMAND)
    assert done.returncode == 75
    assert "given up after 2 restarts that each ended within 1800 seconds" in done.stderr
    assert len(launch.f2jax_calls()) == 2 * 3


def test_an_attempt_that_lasted_starts_the_count_anew(launch):
    launch.plan("70", "70", "70", "0")
    assert launch("run.sh", *COMMAND, HEALTHY="0").returncode == 0


def test_pauses_double(launch):
    launch.plan("70", "70", "70")
    launch.program(launch.cloud / "bin/sleep", 'echo "$1" >>"$CLOUD/sleeps"; exec /bin/sleep 0.05')
    launch("run.sh", *COMMAND, BACKOFF="100")
    assert [pause for pause in launch.read("sleeps") if pause != "0.05"] == ["100", "200"]


def test_a_preempted_slice_is_made_anew_and_the_run_goes_on(launch):
    launch.plan("hang 0", worker0="preempt 0")
    done = launch("run.sh", *COMMAND)
    assert done.returncode == 0
    assert "the slice is SUSPENDED; restart 1 of 2" in done.stderr
    assert launch.verbs("describe", "ssh") == ["create", "scp", "delete", "create", "scp"]
    assert launch.f2jax_calls() == 2 * [["0", *COMMAND]] + 2 * [["1", *COMMAND]]


def test_workers_that_wait_for_a_dead_one_are_stopped_after_a_grace_and_all_start_again(launch):
    launch.plan("hang 0", worker0="137 0")
    done = launch("run.sh", *COMMAND)
    assert done.returncode == 0
    assert "the workers ended with 1 x exit:137, 1 x running; restart 1 of 2" in done.stderr


def test_a_slice_with_a_lost_machine_is_made_anew(launch):
    """Machine 1 does not answer, though Google Cloud calls the slice ACTIVE; f2jax on machine 0 ends for want of it."""
    launch.plan("hang 0", worker0="hang 0")
    process = launch.start("run.sh", *COMMAND)
    wait_for(lambda: len(launch.f2jax_calls()) == 2, process)
    (launch.cloud / "machines/0/f2jax-run/exit").write_text("134\n")
    launch.write("unreachable", "1")
    done = launch.end(process)
    assert done.returncode == 0
    assert "the slice has lost machines; restart 1 of 2" in done.stderr
    assert launch.verbs("describe", "ssh") == ["create", "scp", "delete", "create", "scp"]


def test_workers_that_run_are_left_alone_when_others_do_not_answer(launch):
    """The network from here may be what is broken: the script gives up, the run does not end."""
    launch.plan("hang")
    process = launch.start("run.sh", *COMMAND)
    wait_for(lambda: len(launch.f2jax_calls()) == 2, process)
    launch.write("unreachable", "1")
    done = launch.end(process)
    assert done.returncode == 75
    assert "1 of 2 workers do not answer, though the slice is ACTIVE" in done.stderr
    assert "delete" not in launch.verbs()


def test_the_same_command_follows_a_run_that_goes_on_and_another_is_refused(launch):
    launch.plan("hang")
    first = launch.start("run.sh", *COMMAND)
    wait_for(lambda: len(launch.f2jax_calls()) == 2, first)
    first.terminate()
    left = launch.end(first)
    assert left.returncode == 130 and "a run goes on by itself" in left.stderr

    other = launch("run.sh", *COMMAND, "--config.seed=1")
    assert other.returncode == 1
    assert other.stderr.endswith(
        "launch: slice f2jax runs another command; launch/status.sh shows it, launch/stop.sh stops it.\n"
    )

    launch.commit()
    new_code = launch("setup.sh")  # would put it under the run
    assert new_code.returncode == 1
    assert new_code.stderr.endswith(
        "a run with other code or data is in progress; launch/stop.sh saves and stops it.\n"
    )

    second = launch.start("run.sh", *COMMAND)
    wait_for(lambda: second.poll() is not None or "following" in second.stderr.readline(), second)
    assert launch("stop.sh").returncode == 0
    assert launch.end(second).returncode == 130
    assert len(launch.f2jax_calls()) == 2  # it was started once


def test_stop_saves_and_ends_the_run_without_a_restart(launch):
    launch.plan("hang")
    process = launch.start("run.sh", *COMMAND)
    wait_for(lambda: len(launch.f2jax_calls()) == 2, process)
    assert launch("stop.sh").returncode == 0
    done = launch.end(process)
    assert done.returncode == 130
    assert done.stderr.endswith("stopped and saved; run the same command to continue.\n")
    for number in "01":
        assert (launch.cloud / f"machines/{number}/f2jax-run/log").read_text().endswith("saved\n")


def test_a_machine_that_was_restarted_counts_as_a_crash(launch):
    launch.plan("hang 0")
    process = launch.start("run.sh", *COMMAND)
    wait_for(lambda: len(launch.f2jax_calls()) == 2, process)
    for number in "01":
        (launch.cloud / f"machines/{number}/f2jax-run/boot").write_text("another\n")
    done = launch.end(process)
    assert done.returncode == 0
    assert "the workers ended with 2 x lost; restart 1 of 2" in done.stderr


def test_one_runs_on_the_first_worker_alone_without_its_chips(launch):
    launch.plan("0")
    assert launch("run.sh", "--one", "export", "--model", "gs://b/m", "--output", "gs://b/r").returncode == 0
    assert [call[0] for call in launch.f2jax_calls()] == ["0"]
    text = (launch.cloud / "machines/0/f2jax-run/command").read_text()
    assert text == "JAX_PLATFORMS=cpu f2jax export --model gs://b/m --output gs://b/r"


def test_then_delete_deletes_the_slice_after_a_good_end_and_a_bad_one(launch):
    launch.plan("1")
    assert launch("run.sh", "--then_delete", *COMMAND).returncode == 1
    assert launch.verbs("describe", "ssh") == ["create", "scp", "delete", "list"]


def test_a_setup_that_fails_is_tried_again(launch):
    launch.plan("0")
    launch.write("uv-fails-on-1")
    process = launch.start("run.sh", *COMMAND)
    wait_for(lambda: "set-up failed" in process.stdout.readline(), process)
    (launch.cloud / "uv-fails-on-1").unlink()
    assert launch.end(process).returncode == 0


def test_an_answer_that_the_cloud_owes_at_the_start_is_a_sentence(launch):
    launch.write("trouble-describe", "PERMISSION_DENIED: Cloud TPU API has not been used in project 123 before.")
    done = launch("run.sh", *COMMAND)
    assert done.returncode == 1
    assert "PERMISSION_DENIED" in done.stderr
    assert done.stderr.endswith("Google Cloud did not say whether f2jax exists; its reason is above.\n")


def test_a_cloud_that_does_not_answer_for_a_while_ends_nothing(launch):
    launch.plan("hang 0")
    process = launch.start("run.sh", *COMMAND)
    wait_for(lambda: len(launch.f2jax_calls()) == 2, process)
    launch.write("trouble-describe", *3 * ["UNAVAILABLE: try again"])
    wait_for(lambda: not launch.read("trouble-describe"), process)
    assert launch("stop.sh").returncode == 0
    assert launch.end(process).returncode == 130
    assert launch.verbs("describe", "ssh") == ["create", "scp"] and len(launch.f2jax_calls()) == 2


@pytest.mark.parametrize(
    ("verb", "before"),
    [("create", 0), ("describe", 3), ("describe", 4)],  # after `create`, and in the set-up
    ids=["create", "after create", "in the set-up"],
)
def test_a_cloud_that_fails_once_while_the_slice_is_made_is_asked_again(launch, verb, before):
    launch.plan("0")
    launch.write(f"trouble-{verb}", *before * [""], "UNAVAILABLE: The service is currently unavailable.")
    done = launch("run.sh", *COMMAND)
    assert done.returncode == 0
    assert not launch.read(f"trouble-{verb}") and "UNAVAILABLE" in done.stderr


def test_a_preempted_slice_that_the_cloud_does_not_delete_at_once_is_made_anew(launch):
    launch.plan("hang 0", worker0="preempt 0")
    launch.write("trouble-delete", "UNAVAILABLE: try again", "UNAVAILABLE: try again")
    done = launch("run.sh", *COMMAND)
    assert done.returncode == 0
    assert launch.verbs("describe", "ssh") == ["create", "scp", "delete", "delete", "delete", "create", "scp"]


def test_the_wait_for_a_slice_is_no_attempt_that_lasted(launch):
    """Here each request for it fails after a second; all restarts are counted though HEALTHY is less than that."""
    launch.write("granted", *20 * ["WAITING_FOR_RESOURCES"], "FAILED")
    done = launch("run.sh", *COMMAND, HEALTHY="1", POLL="0.1")
    assert done.returncode == 75
    assert "the slice was not made ready; given up after 2 restarts" in done.stderr


def test_no_quota_is_not_tried_again(launch):
    launch.write("refusal", "Quota limit exceeded")
    assert launch("run.sh", *COMMAND).returncode == 1
    assert launch.verbs("describe") == ["create"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "say what to run: launch/run.sh train --config … --workdir …"),
        (["--config", "x"], "run.sh has no option '--config'; options of f2jax come after its command"),
        (["train", "--config", "x", "--workdir", "here"], "a slice can be taken away with its disks: give train"),
    ],
)
def test_a_wrong_command_is_one_sentence_before_any_call(launch, argv, sentence):
    done = launch("run.sh", *argv)
    assert done.returncode == 1
    assert done.stderr.startswith(f"launch: {sentence}") and done.stderr.count("\n") == 1
    assert launch.calls() == []


def test_a_mistake_in_the_config_is_found_before_anything_is_paid_for(launch):
    argv = ["train", "--config", "configs/nano.py:stage=1", "--workdir", "gs://b/x", "--config.optim.peak_l=1"]
    done = launch("run.sh", *argv, PYTHON=sys.executable)
    assert done.returncode == 1
    assert done.stderr == "launch: The config has no field 'optim.peak_l'; did you mean 'optim.peak_lr'?\n"
    assert launch.calls() == []


@pytest.mark.parametrize(
    ("corpus", "data", "sentence"),
    [
        ("/tmp/f2jax-data", "", "corpus:/tmp/f2jax-data is where set-up copies DATA to, and DATA is empty; set it"),
        ("prepared", "gs://b/corpus", "The workers have no prepared; put the corpus on gs://, set DATA to it"),
        ("/tmp/f2jax-data2", "gs://b/corpus", "The workers have no /tmp/f2jax-data2; put the corpus on gs://"),
        ("/tmp/f2jax-data/1", "gs://b/corpus", ""),
        ("gs://b/corpus", "", ""),
    ],
)
def test_a_corpus_that_the_workers_would_not_have_is_told_before_anything_is_paid_for(launch, corpus, data, sentence):
    argv = ["train", "--config", "configs/nano.py:stage=1", "--workdir", "gs://b/x"]
    argv += [f"--config.data.sources=('corpus:{corpus}',)"]
    done = launch("run.sh", "--dry_run", *argv, PYTHON=sys.executable, DATA=data)
    if sentence:
        assert done.returncode == 1 and done.stderr.startswith(f"launch: {sentence}") and done.stderr.count("\n") == 1
    else:
        assert done.returncode == 0, done.stderr


def test_a_config_is_never_left_unchecked(launch):
    """The Python of the checkout's .venv is taken, else that of the shell."""
    argv = ["train", "--config", "configs/nano.py:stage=1", "--workdir", "gs://b/x", "--config.optim.peak_l=1"]
    done = launch("run.sh", *argv, PYTHON="false")
    assert done.returncode == 1
    assert done.stderr.startswith("launch: false lacks what the f2jax of this checkout needs, and nothing is")
    (launch.checkout / ".gitignore").write_text("/runs/\n/.venv/\n")
    launch.program(launch.checkout / ".venv/bin/python", f'exec {sys.executable} "$@"')
    done = launch("run.sh", *argv, PYTHON="")
    assert done.stderr == "launch: The config has no field 'optim.peak_l'; did you mean 'optim.peak_lr'?\n"
    assert launch.calls() == []


def test_a_dry_run_prints_all_steps_and_makes_none(launch):
    done = launch("run.sh", "--dry_run", *COMMAND)
    assert done.returncode == 0
    steps = [" create f2jax", " scp ", "worker.sh setup", "worker.sh start f2jax train", "worker.sh report"]
    places = [done.stderr.rindex(step) for step in steps]
    assert places == sorted(places)
    assert launch.calls() == []


def test_logs_are_of_all_workers_or_of_one_and_name_the_machine(launch):
    launch.plan("0")
    launch("run.sh", *COMMAND)
    assert launch("logs.sh").stdout.splitlines()[-1] == "1: f2jax: the message of 0"
    assert launch("logs.sh", "--lines", "1", "0").stdout == "0: f2jax: the message of 0\n"
    assert launch("logs.sh", "--lines").stderr == "launch: --lines needs a number.\n"
    assert launch("logs.sh", "zero").stderr == "launch: a worker is a number from 0, or SLICE/WORKER.\n"


def test_status_shows_cost_workers_and_command(launch):
    launch.plan("0")
    assert launch("status.sh").stdout == "slice    f2jax: NONE (1 x v5p-16, spot, zone-1-a)\n"
    launch("run.sh", *COMMAND)
    lines = launch("status.sh", PRICE="2").stdout.splitlines()
    hours, chip_hours, cost = (float(lines[1].replace(",", "").split()[n]) for n in (1, 7, 10))
    assert chip_hours == pytest.approx(8 * hours, rel=0.01) and cost == pytest.approx(2 * chip_hours, rel=0.01)
    commit = launch.git("rev-parse", "HEAD")[:12]
    assert lines[2:5] == ["workers  2 of 2 answer", f"         0 exit:0 {commit}", f"         1 exit:0 {commit}"]
    assert lines[5] == f"command  f2jax {' '.join(COMMAND)}"
