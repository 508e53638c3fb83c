"""The training loop, from top to bottom: data → mesh → model → state → steps → checkpoint.

`train(config, workdir)` resumes by itself: the newest checkpoint's step number decides all the rest.
"""

import resource
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from f2jax import config as configs
from f2jax import files
from f2jax.checkpoints import workdir as workdir_lib
from f2jax.checkpoints.orbax import Checkpoints, TrainState, is_checkpoint_step
from f2jax.data import loader as loader_lib
from f2jax.data.loader import Loader
from f2jax.data.packing import RowShare
from f2jax.errors import Interrupted, UserError
from f2jax.model.nested import factorize_table
from f2jax.model.qwen3 import abstract_params, check_execution
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel import hosts, layout_report
from f2jax.parallel.mesh import make_mesh, process_share
from f2jax.parallel.sharding import param_shardings
from f2jax.train import optim, resume
from f2jax.train.goodput import Goodput
from f2jax.train.metrics import MetricsWriter
from f2jax.train.program import Program
from f2jax.train.teacher import load_teacher, teacher_fingerprints, teacher_width


def train(config, workdir: str | Path) -> dict[str, float]:
    """Train a model as `config` says, in `workdir`; returns the last metrics.

    On several hosts each calls it, after `hosts.start()`, with the same config and a workdir that all of them see.

    Raises:
        UserError: the config, the data or the workdir cannot be used; the hosts differ; a loss is not finite
            (the step is named).
        Interrupted: SIGINT or SIGTERM came, to any host; the state was saved first.
    """
    clock = Goodput()
    configs.check(config)
    check_execution(config.model.kernel, config.model.remat)
    hosts.check_same_on_all_hosts(resume.host_fingerprints(config))
    begun = resume.prepare_workdir(config, workdir)
    restores = resume.has_checkpoint(workdir)  # then the run is whole without `init_from`
    init_path = files.resolve_model(config.init_from) if config.init_from and not restores else ""

    skipped: Counter = Counter()
    architecture = workdir_lib.read_architecture(workdir) if restores else choose_architecture(config, init_path)
    folder = files.join(workdir, "tokenizer")
    tokenizer, splits = loader_lib.load_data(
        config, folder if begun else "", workdir_lib.tokenizer_folder(init_path), architecture.vocab_size, skipped
    )
    training = [data for data, _ in splits]
    held_out = [held for _, held in splits if len(held)]
    facts = loader_lib.data_fingerprints(tokenizer, training) | teacher_fingerprints(config)
    hosts.check_same_on_all_hosts(facts, hosts.DATA_SECONDS)
    resume.check_data(config, facts, workdir, begun)
    if hosts.is_first() and not begun:
        tokenizer.save(folder)

    mesh = make_mesh(**config.mesh)
    loader = Loader(
        training, config, tokenizer.pad_id, RowShare(*process_share(mesh)), loader_lib.mixture_weights(training, config)
    )
    steps = config.steps or config.epochs * loader.steps_per_epoch
    program = Program(config, architecture, mesh, steps, teacher_width(config))
    if hosts.is_first():
        workdir_lib.write_architecture(workdir, architecture)
    hosts.print_once(describe(architecture, loader, held_out, steps, skipped))
    hosts.print_once(layout_report.weight_table(program.state.params))

    with Checkpoints(workdir, config.checkpoint, steps) as checkpoints, jax.set_mesh(mesh):
        state = start_state(program, config.seed, init_path, checkpoints)
        teacher = load_teacher(config, architecture.width, tokenizer, mesh)
        start = int(state.step)
        if start:
            hosts.print_once(f"Resuming after step {start} of {steps}.")
        clock.count("start", since=clock.began)
        values: dict[str, float] = {}
        with (
            hosts.StopSignal(mesh) as stop,
            MetricsWriter(workdir, start, config.log.tensorboard) as writer,
            tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, disable=not hosts.is_first()) as bar,
        ):
            report = Report(writer, optim.make_schedule(config.optim, steps))

            def save(wait: bool) -> None:
                with clock.during("checkpoint"):
                    writer.publish()  # first: a resume needs the lines up to its checkpoint
                    checkpoints.save(state)
                    if wait:
                        checkpoints.wait()

            def stopped(done: int) -> Interrupted:
                save(wait=True)
                return Interrupted(f"Stopped and saved after step {done} of {steps}; the same command goes on.")

            def validation(done: int) -> dict[str, float]:
                with clock.during("validation"):
                    found = validate(program, state, teacher, held_out, config, tokenizer.pad_id, loader.share, stop)
                if found is None:
                    raise stopped(done)
                writer.write(done, found)
                return found

            def validates(done: int) -> bool:
                every = config.log.validate_every
                return bool(held_out) and (done == steps or (every > 0 and done % every == 0))

            if start and validates(start) and not hosts.broadcast(writer.validated(start)):
                values |= validation(start)  # the run before ended inside it
            for step, name, batch in clock.waiting(loader.batches(start, steps)):
                if step == start:
                    hosts.print_once(layout_report.tokens_summary(mesh, batch.rows * config.data.row_length))
                with clock.compiling(batch.program):
                    state, metrics = program.step(state, program.put(batch), teacher, kind=batch.kind)
                report.wait()  # for the step before: one runs, one is ready; more would only hold memory
                report.add(step + 1, name, batch, metrics)
                bar.update()
                done = step + 1
                stops = stop.exchange()
                saves = is_checkpoint_step(done, steps, config.checkpoint)
                if stops or saves or done % config.log.every == 0:
                    values = report.flush()
                    bar.set_postfix_str(report.line(values))
                if stops:
                    raise stopped(done)
                if saves:
                    save(wait=False)
                if validates(done):
                    values |= validation(done)
                if saves or validates(done):
                    report.go_on()
        with clock.during("checkpoint"):
            checkpoints.wait()
        hosts.print_once(f"{report.summary()}\n{clock.line()}")
    return values


def choose_architecture(config, init_path: str) -> Qwen3Config:
    """The shape of the starting weights, which `model.size` must agree with, or that of `model.size`."""
    rank = config.model.table_rank
    wanted = workdir_lib.architecture_of(config.model.size, rank)
    if not init_path:
        return wanted
    found = workdir_lib.read_architecture(init_path)
    if found.table_rank not in (0, rank):
        raise UserError(
            f"The token table of init_from={config.init_from} has rank {found.table_rank}, not {rank}; set "
            f"model.table_rank={found.table_rank}, or start from a folder that f2jax export writes."
        )
    names = ("width", "mlp", "layers", "heads", "kv_heads", "head_dim", "vocab_size")
    wrong = [f"{name} {getattr(found, name)}, not {getattr(wanted, name)}" for name in names]
    wrong = [text for text, name in zip(wrong, names, strict=True) if getattr(found, name) != getattr(wanted, name)]
    if wrong:
        raise UserError(f"init_from={config.init_from} is no {config.model.size}: it has {'; '.join(wrong)}.")
    return replace(found, table_rank=rank)


def start_state(program: Program, seed: int, init_path: str, checkpoints: Checkpoints) -> TrainState:
    """The newest checkpoint, or the weights of `init_path`, or fresh ones; each weight is born in its sharding."""
    state = checkpoints.restore(program.state)
    if state is not None:
        checkpoints.set_aside_after(int(state.step))
        return state
    if not init_path:
        return program.start(program.fresh_params(seed))
    found, weights = workdir_lib.load_weights(
        init_path,
        program.model.param_dtype,
        lambda architecture: param_shardings(abstract_params(architecture), program.mesh),
    )
    rank = program.model.config.table_rank
    if rank != found.table_rank:
        weights = jax.jit(partial(factorize_table, rank=rank), out_shardings=program.model_shardings)(weights)
    return program.start(weights)


def validate(
    program: Program, state, teacher, held_out, config, pad_id: int, share: RowShare, stop: hosts.StopSignal
) -> dict[str, float] | None:
    """Mean metrics over the held-out share of each data set, as `validation/<name>/<metric>`; None if asked to stop."""
    values = {}
    for data in held_out:
        loader = Loader([data], config, pad_id, share)
        count = min(loader.steps_per_epoch, config.log.validation_batches or loader.steps_per_epoch)
        totals, rows = defaultdict(float), 0
        for _, name, batch in loader.batches(0, count):
            metrics = jax.device_get(program.evaluate(state.params, program.put(batch), teacher, kind=batch.kind))
            size_of_batch = int(batch.row_mask_b.sum())
            rows += size_of_batch
            for key, value in metrics.items():
                totals[f"validation/{name}/{key}"] += float(value) * size_of_batch
            if stop.exchange():
                return None
        values |= {key: total / rows for key, total in totals.items()}
    return values


class Report:
    """Collects the metrics of steps on the device and fetches them together, so that a step never waits for a log."""

    def __init__(self, writer: MetricsWriter, schedule):
        self.writer, self.schedule = writer, schedule
        self.pending: list[tuple] = []
        self.steps = self.useful = self.total = 0
        self.since = self.started = time.perf_counter()

    def add(self, step: int, name: str, batch, metrics) -> None:
        self.pending.append((step, name, batch.useful_tokens, batch.rows * batch.tokens_bt.shape[1], metrics))

    def wait(self) -> None:
        """Wait until the last step that was added has run."""
        if self.pending:
            jax.block_until_ready(self.pending[-1][-1])

    def flush(self) -> dict[str, float]:
        """Means since the last report, also per data set; writes them.

        Raises:
            UserError: the loss or the gradient of a step is not finite.
        """
        if not self.pending:
            return {}
        fetched = jax.device_get([metrics for *_, metrics in self.pending])
        for (step, name, *_), metrics in zip(self.pending, fetched, strict=True):
            if not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])):
                raise UserError(
                    f"Step {step} (on {name}) has loss {metrics['loss']} and gradient norm {metrics['grad_norm']}; "
                    "lower optim.peak_lr or look at that data. Checkpoints of earlier steps are whole."
                )
        groups = defaultdict(list)
        for (_, name, *_), metrics in zip(self.pending, fetched, strict=True):
            for key, value in metrics.items():
                groups[key].append(value)
                if key == "loss":
                    groups[f"{name}/loss"].append(value)
        values = {key: float(np.mean(group)) for key, group in groups.items()}
        now = time.perf_counter()
        useful, total = (sum(column) for column in list(zip(*self.pending, strict=True))[2:4])
        self.steps += len(self.pending)
        self.useful, self.total = self.useful + useful, self.total + total
        last = self.pending[-1][0]
        values |= {
            "tokens_per_second": useful / (now - self.since),
            "useful_share": useful / total,
            "learning_rate": float(self.schedule(last - 1)),
        }
        self.writer.write(last, values)
        self.pending, self.since = [], now
        return values

    def go_on(self) -> None:
        """After other work than training: its time is not the next report's, unless steps wait to be reported."""
        if not self.pending:
            self.since = time.perf_counter()

    @staticmethod
    def line(values: dict[str, float]) -> str:
        return (
            f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s, "
            f"{values['useful_share']:.1%} useful"
        )

    def summary(self) -> str:
        """What this process did: steps, time, tokens, and the most memory it held."""
        seconds = time.perf_counter() - self.started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
        share = self.useful / max(self.total, 1)
        return (
            f"{self.steps:,} steps in {seconds:,.0f} s: {self.useful:,} tokens, {share:.1%} of those in the batches; "
            f"peak memory {peak:.1f} GiB."
        )


def describe(architecture: Qwen3Config, loader: Loader, held_out, steps: int, skipped: Counter) -> str:
    """What is about to be trained on what."""
    lines = [f"{architecture.parameters:,} parameters, {architecture.width} dimensions; {steps:,} steps."]
    held = {(data.name, data.kind): len(data) for data in held_out}
    lines += [f"{'data set':<28} {'kind':<14} {'rows':>10} {'weight':>7} {'batches':>8} {'share':>7} {'held out':>9}"]
    lines += [
        f"{row['name']:<28} {row['kind']:<14} {row['rows']:>10,} {row['weight']:>7.3g} {row['batches']:>8,} "
        f"{row['share']:>7.1%} {held.get((row['name'], row['kind']), 0):>9,}"
        for row in loader.mixture.table()
    ]
    return "\n".join([*lines, *(f"Skipped {count:,} rows: {reason}." for reason, count in sorted(skipped.items()))])
