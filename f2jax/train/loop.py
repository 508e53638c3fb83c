"""The training loop: run → data → mesh → program → state → steps → checkpoint.

`train(config, workdir)` resumes by itself, because everything else follows from the step of the newest checkpoint.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from f2jax import config as configs
from f2jax.checkpoints import workdir as workdir_lib
from f2jax.checkpoints.best import read_metrics, scores_of
from f2jax.checkpoints.orbax import Checkpoints, SaveTimer, TrainState, is_checkpoint_step
from f2jax.data import loader as loader_lib
from f2jax.data.loader import Loader
from f2jax.data.mixed import drawn_datasets
from f2jax.data.packing import Batch, RowShare
from f2jax.data.prompts import write_prompts
from f2jax.data.skip_list import SkipList
from f2jax.errors import Interrupted, UserError
from f2jax.model.attention import check_kernel_fits
from f2jax.model.nested import factorize_table
from f2jax.model.qwen3 import abstract_params, check_execution
from f2jax.parallel import hosts, layout_report
from f2jax.parallel.mesh import make_mesh, process_share
from f2jax.parallel.sharding import param_shardings
from f2jax.train import optim, resume, terms
from f2jax.train.compiled import CompiledProgram, keep_compiled
from f2jax.train.goodput import Goodput
from f2jax.train.measures import Evaluate, Evaluation, Validation, best_score, check_best_metric, check_held_out
from f2jax.train.metrics import MetricsWriter, read_totals
from f2jax.train.program import Program, check_settings
from f2jax.train.report import Report, Work, progress, run_table
from f2jax.train.resume import Run
from f2jax.train.step_trace import StepTrace
from f2jax.train.teacher import open_teacher

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} steps [{elapsed}{postfix}]"  # tqdm's own estimate jumps with each compilation


def train(config: ConfigDict, workdir: str | Path, evaluate: Evaluate | None = None) -> dict[str, float]:
    """Trains a model from `config` in `workdir`, and returns the last metrics.

    If there are several hosts, each of them calls this after `hosts.start()`, with the same config and a workdir that
    all of them can see.

    >>> train(config.load("nano:stage=1"), "runs/nano")["loss"]
    1.98

    Args:
        evaluate: scores the model every `log.evaluate_every` steps.

    Raises:
        UserError: the config, the data or the workdir cannot be used; another process trains there; the hosts differ;
            or a loss is not finite (the message names the step).
        Interrupted: a host received SIGINT or SIGTERM; the state has been saved.
    """
    clock = Goodput()
    configs.check(config)
    check_execution(config.model.kernel, config.model.remat)
    if config.checkpoint.best_metric:
        check_best_metric(config.checkpoint.best_metric, config)
    hosts.check_same_on_all_hosts(resume.host_fingerprints(config))
    with resume.sole_training(workdir):
        return _train(config, workdir, evaluate, clock)


def _train(config: ConfigDict, workdir: str | Path, evaluate: Evaluate | None, clock: Goodput) -> dict[str, float]:
    """Trains in a workdir that no other process writes."""
    run = resume.open_run(config, workdir)
    check_kernel_fits(config.model.kernel, run.architecture.head_dim)
    check_settings(config, run.architecture)
    mesh = make_mesh(**config.mesh)
    keep_compiled(workdir)
    teacher_folder = open_teacher(config, run.architecture)

    skipped = SkipList()
    beside = workdir_lib.tokenizer_folder(run.init.path if run.init else "")
    tokenizer, splits = loader_lib.load_data(config, run.tokenizer, beside, run.architecture.vocab_size, skipped)
    training, validated = [rows for rows, _ in splits], [pair for pair in splits if len(pair[1])]
    held_out = [held for _, held in validated]
    check_held_out(config.checkpoint.best_metric, held_out)
    kinds, scored = {rows.name: rows.kind for rows in training}, {rows.name for rows in training if rows.is_scored}
    bare = {*kinds.values()} - {r.kind for r in training if r.max_negatives and config.data.negatives.get(r.kind, 0)}
    terms.check_learned(config.loss, kinds, bool(teacher_folder.width), scored, bare)
    fingerprints = loader_lib.data_fingerprints(tokenizer, training) | teacher_folder.fingerprints()
    hosts.check_same_on_all_hosts(fingerprints, hosts.DATA_SECONDS)
    run.keep(config, fingerprints, tokenizer)
    if hosts.is_first():
        write_prompts(workdir, config.prompts.to_dict(), training, tokenizer)

    share = RowShare(*process_share(mesh))
    drawn = drawn_datasets(training, config)
    loader = Loader(drawn, config, tokenizer.pad_id, share, loader_lib.mixture_weights(drawn, config))
    hosts.check_same_on_all_hosts({"shapes of packed rows": repr(loader.rules.programs)}, hosts.DATA_SECONDS)
    steps = run.check_steps(config.steps or config.epochs * loader.steps_per_epoch)
    program = Program(config, run.architecture, mesh, steps, teacher_folder.width)
    hosts.print_once(run_table(run.architecture, loader, drawn_datasets(held_out, config), steps, skipped))
    hosts.print_once(layout_report.weight_table(program.state.params))

    with Checkpoints(workdir, config.checkpoint, steps) as checkpoints, jax.set_mesh(mesh):
        state = start_state(program, run, config.seed, checkpoints)
        teacher = teacher_folder.load(config, tokenizer, mesh)
        start = int(state.step)
        lines = read_metrics(workdir)
        scores = scores_of(lines, config.checkpoint.best_metric)
        checkpoints.scores.update({step: score for step, score in scores.items() if step <= start})
        so_far = read_totals(run.branch[0] if run.step is None and run.branch else workdir, start)
        clock.started()
        with (
            hosts.StopSignal(mesh) as stop,  # around the last write too
            checkpoints.finishing(),
            MetricsWriter(workdir, start, config.log.tensorboard) as writer,
            StepTrace(workdir, *config.log.profile) as trace,
            CompiledProgram(program, teacher) as compiled,
            tqdm(total=steps, initial=start, bar_format=BAR, dynamic_ncols=True, disable=not hosts.is_first()) as bar,
        ):
            report = Report(
                writer,
                optim.make_schedule(config.optim, steps),
                clock,
                advice=lambda bad: resume.diverged_advice(workdir, checkpoints.steps(), bad, config.data.skip_steps),
                work=Work.of(run.architecture, teacher, mesh, so_far),
            )
            languages = [rows.languages for rows, _ in validated]
            validation = Validation(config, compiled, loader, held_out, steps, languages)
            measures = validation, Evaluation(config, program, workdir, tokenizer, steps, evaluate)
            hosts.print_once(start_line(run, start, steps))
            if config.model.compile_ahead and start < steps:
                held = validation.batches(held_out) if validation.due(steps) else None
                compiled.begin_for(config, loader, steps - start, held)
            loop = Loop(config, compiled, loader, measures, checkpoints, stop, writer, report, clock, trace, bar)
            values = loop.run(state, steps, {name for line in lines if line["step"] == start for name in line})
            with clock.during("checkpoint"):
                checkpoints.wait()
        hosts.print_once(f"{report.summary()}\n{clock.line()}")
    return values


def start_line(run: Run, start: int, steps: int) -> str:
    """Returns the state from which the run continues."""
    if start >= steps:
        return (
            f"The run in {run.workdir} is finished: it has taken {start} of {steps} steps. To train on, begin another "
            f"workdir with --config.resume_from={run.workdir} and more steps."
        )
    if run.step is None and run.branch:
        return f"Going on from step {start} of {run.branch[0]}, up to step {steps}."
    return f"Resuming after step {start} of {steps}." if start else f"Training {steps} steps."


def start_state(program: Program, run: Run, seed: int, checkpoints: Checkpoints) -> TrainState:
    """Returns the state from which a run continues, see `Run`; each weight is created in its sharding.

    Raises:
        Restart, UserError: it cannot be read; a run that has a checkpoint never begins again.
    """
    if run.step is not None:
        state = checkpoints.restore(program.state)
        if state is None:
            raise UserError(f"The checkpoint of step {run.step} in {checkpoints.folder} is gone; restore it.")
        checkpoints.set_aside_after(int(state.step))
        return state
    if run.branch:
        folder, step = run.branch
        with Checkpoints(folder) as source:
            state = source.restore(program.state, step=step)
        if state is None:
            raise UserError(f"The checkpoint of step {step} in {source.folder} is gone; restore it.")
        return state
    if not run.init:
        return program.start(program.fresh_params(seed))
    architecture, weights = workdir_lib.load_weights(
        run.init,
        program.model.param_dtype,
        lambda architecture: param_shardings(abstract_params(architecture), program.mesh),
    )
    rank = program.model.config.table_rank
    if rank != architecture.table_rank:
        weights = jax.jit(partial(factorize_table, rank=rank), out_shardings=program.model_shardings)(weights)
    return program.start(weights)


@dataclass
class Loop:
    """The steps of a run, with the logs, measurements and checkpoints between them."""

    config: ConfigDict
    compiled: CompiledProgram
    loader: Loader
    measures: Sequence[Validation | Evaluation]
    checkpoints: Checkpoints
    stop: hosts.StopSignal
    writer: MetricsWriter
    report: Report
    clock: Goodput
    trace: StepTrace
    bar: tqdm
    logs: bool = False  # whether metrics are to be written once the next step runs

    def run(self, state: TrainState, steps: int, written: Collection[str] = ()) -> dict[str, float]:
        """Trains from the step of `state` to `steps`, and returns the last metrics, or {} if nothing was left to do.

        Args:
            written: the metrics in the workdir for the step of `state`; what is due and missing is measured first.

        Raises:
            UserError: a loss is not finite, or a checkpoint cannot be written.
            Interrupted: a host received SIGINT or SIGTERM; the state has been saved.
        """
        self.state, start = state, int(state.step)
        self.values: dict[str, float] = {}
        timer = SaveTimer(self.config.checkpoint.minutes)
        if missing := self.missing(start, written):
            self.values |= self.measure(missing, start, steps)
        for step, name, batch in self.clock.waiting(self.batches(start, steps)):
            self.take(step, name, batch)
            done = step + 1
            measures = self.measured_after(done)
            saves = is_checkpoint_step(done, steps, self.config.checkpoint)
            saves |= bool(measures and self.config.checkpoint.best_metric)
            request = self.stop.exchange(save=not saves and hosts.is_first() and timer.due())
            saves |= request >= hosts.SAVE
            if saves or done == steps or measures:
                self.log()
            self.logs = done % self.config.log.every == 0
            if request == hosts.STOP:
                raise self.stopped(done, steps)
            if saves:
                self.save()
                timer.saved()
            if measures:
                self.values |= self.measure(measures, done, steps)
        return self.values

    def measured_after(self, done: int) -> list[Validation | Evaluation]:
        """Returns what is measured after step `done`."""
        return [measure for measure in self.measures if measure.due(done)]

    def missing(self, start: int, written: Collection[str]) -> list[Validation | Evaluation]:
        """Returns what should have been measured after the step of a resume but was not.

        A measurement without `checkpoint.best_metric` is repeated, because the metric may have been changed since.
        """
        best = self.config.checkpoint.best_metric
        found = []
        for measure in self.measured_after(start) if start else ():
            names = {name for name in written if name.startswith(measure.prefix)}
            if not hosts.broadcast(bool(names) and (best in names or not best.startswith(measure.prefix))):
                found.append(measure)
        return found

    def batches(self, start: int, steps: int) -> Iterator[tuple[int, str, Batch]]:
        """Yields (step, data set, batch) from `start` to `steps`; step n takes batch n + `data.skip_steps`."""
        skip = self.config.data.skip_steps
        for number, name, batch in self.loader.batches(range(start + skip, steps + skip)):
            if number == start + skip:
                tokens = batch.tokens
                hosts.print_once(layout_report.tokens_summary(self.compiled.program.mesh, tokens))
            yield number - skip, name, batch

    def take(self, step: int, name: str, batch: Batch) -> None:
        """Starts a step and waits for the previous one, because more than two steps at once would only take memory."""
        with self.trace.step(step, lambda: self.state), self.clock.compiling(batch.program):
            arrays = self.compiled.program.put(batch)
            self.state, metrics = self.compiled.step(self.state, arrays, batch.kind)
        self.report.wait()
        if self.logs:  # of the steps before: this one runs meanwhile
            self.log()
        self.report.add(step + 1, name, batch, metrics)
        self.bar.update()

    def log(self) -> None:
        """Writes the metrics since the last report, if there are any, and waits for their last step."""
        if values := self.report.flush():
            self.values = values
            if not self.bar.disable:
                left = self.clock.left(self.bar.n - self.bar.initial, self.bar.total - self.bar.n)
                self.bar.set_postfix_str(progress(values, tqdm.format_interval(left)))

    def save(self) -> None:
        """Starts to write a checkpoint."""
        with self.clock.during("checkpoint"):
            self.writer.publish()  # first: a resume needs the lines up to its checkpoint
            self.checkpoints.save(self.state)
            self.stop.saved()

    def measure(self, measures: Sequence[Validation | Evaluation], done: int, steps: int) -> dict[str, float]:
        """Measures the model after step `done`, and writes what was found.

        Raises:
            UserError: `checkpoint.best_metric` is not among the results; nothing is written, so a restart measures
                again.
        """
        values: dict[str, float] = {}
        for measure in measures:
            with self.clock.during("validation"):
                found = measure.measure(self.state.params, self.stop)
            if found is None:
                raise self.stopped(done, steps)
            values |= found
        metric = self.config.checkpoint.best_metric
        score = best_score(metric, values) if metric else None
        self.writer.write(done, values)
        if score is not None:
            self.checkpoints.scores[done] = score
        return values

    def stopped(self, done: int, steps: int) -> Interrupted:
        """Saves the state, and returns the exception to raise."""
        self.save()
        with self.clock.during("checkpoint"):
            self.checkpoints.wait()
        return Interrupted(f"Stopped and saved after step {done} of {steps}; run the same command to continue.")
