"""`f2jax prepare`: from source files to a corpus folder, data set by data set.

1. Survey each input: which data sets it feeds, with how many rows (`survey.py`).
2. Spill the texts of inputs that share data sets (`spill.py`), write documents and rows (`builder.py`), describe them.
3. Write `corpus.json`, the data card. It is there only when all that it names is whole.

A data set that is finished, from the same inputs by the same options, is not made again. Memory grows with the distinct
documents of the largest data set (8 bytes each) and with the cap (8 bytes for each row of each data set), no further.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from f2jax import __version__, files
from f2jax.data.corpus import CARD, TOKENIZER, VERSION
from f2jax.data.dataset import dataset_names
from f2jax.data.prepare import card as cards
from f2jax.data.prepare.intake import Options
from f2jax.data.prepare.spill import SHARD_BYTES, WORK, Wanted, spill
from f2jax.data.prepare.survey import Key, Survey, limit, survey
from f2jax.data.record import stable_id
from f2jax.data.sources import BUILT_IN, expand
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.errors import UserError

SURVEYS, FINISHED = "survey", "finished"  # folders beside the data sets


@dataclass(frozen=True)
class Plan:
    """One data set that is to be made."""

    name: str
    source_kind: Key
    inputs: tuple[str, ...]
    wanted: Wanted
    tokenizer: str  # its fingerprint
    fingerprint: str  # of all that decides the content

    @property
    def key(self) -> str:
        """Its name on disk."""
        return self.wanted.folder


def prepare(
    sources: Sequence[str],
    output: str | Path,
    tokenizer: str | Path,
    options: Options,
    licences: Mapping[str, str] | None = None,
    jobs: int = 1,
    beam: dict | None = None,
) -> dict:
    """Write a corpus of `sources` to the folder `output`; returns the data card.

    Args:
        sources: as in `data.sources` of a training config.
        licences: {name or pattern: licence}, for the card.
        jobs: processes; each makes data sets of its own.
        beam: `beam_runner` and `beam_options` of TFDS; None: no Beam.

    Raises:
        UserError: an input, the tokenizer or an option cannot be used.
    """
    if files.is_remote(output):
        raise UserError(f"--output {output}: a corpus is written to a local or mounted folder; copy it from there.")
    output = Path(output).resolve()
    inputs = list_inputs(sources)
    fingerprint = keep_tokenizer(load_tokenizer(tokenizer), output / TOKENIZER)
    run = partial(_on_beam, beam=beam) if beam else partial(_in_processes, jobs=jobs)

    surveys = survey_all(inputs, output / SURVEYS, options, run)
    plans = plan_all(surveys, inputs, options, fingerprint)
    todo = [plan for plan in plans if not cards.is_finished(output / FINISHED, plan.key, plan.fingerprint)]
    if todo:
        (output / CARD).unlink(missing_ok=True)
        shutil.rmtree(output / WORK, ignore_errors=True)
    make = partial(make_group, output=output, options=options, beam=beam or {}, run=run if beam else _here)
    work = groups(todo)
    with tqdm(total=len(todo), desc="data sets", disable=None) as bar:
        for plans_made, _ in zip(work, (map if beam else run)(make, work), strict=True):
            bar.update(len(plans_made))
    shutil.rmtree(output / WORK, ignore_errors=True)

    skipped, noted = Counter(), Counter()
    for found in surveys.values():
        skipped.update(found.skipped)
        noted.update(found.noted)
    made = [cards.read(output / FINISHED, plan.key) for plan in plans]
    card = {
        "version": VERSION,
        "f2jax": __version__,
        "tokenizer": fingerprint,
        "options": dataclasses.asdict(options),
        "skipped": dict(sorted(skipped.items())),
        "noted": dict(sorted(noted.items())),
        "datasets": [entry | {"licence": _licence(entry["name"], licences or {})} for entry in made],
    }
    files.write_whole(output / CARD, json.dumps(card, indent=1, ensure_ascii=False))
    return card


def list_inputs(sources: Iterable[str]) -> dict[str, str]:
    """What there is to read, in order, and a signature that changes with its content.

    Raises:
        UserError: there are no sources, or one is missing.
    """
    found = {}
    for spec in sources:
        for name in [spec] if spec.startswith(("cldr:", "stdlib:")) else expand(spec):
            found[name] = f"f2jax {__version__}" if name in BUILT_IN else _signature(name)
    if not found:
        raise UserError("There is nothing to prepare; name files or built-in sets with --input.")
    return found


def _signature(path: str) -> str:
    filesystem, name = files.filesystem(path)
    info = filesystem.info(name)
    return " ".join(str(info[key]) for key in ("size", "mtime", "md5Hash", "etag") if key in info)


def keep_tokenizer(tokenizer: Tokenizer, folder: Path) -> str:
    """Write the tokenizer to `folder`; returns its fingerprint."""
    part = folder.with_name(f"{folder.name}.part")
    for path in (part, folder):
        shutil.rmtree(path, ignore_errors=True)
    tokenizer.save(part)
    part.rename(folder)
    return tokenizer.fingerprint()


def survey_all(inputs: dict[str, str], folder: Path, options: Options, run: Callable) -> dict[str, Survey]:
    """The survey of each input; one that was made before is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for spec, signature in inputs.items():
        curate = dataclasses.asdict(options.curate) if options.curate else None
        decides = [spec, signature, options.kinds, options.cap, options.seed, curate]
        paths[spec] = folder / f"{_hash(decides)}.npz"
    new = [(spec, str(path)) for spec, path in paths.items() if not path.exists()]
    for _ in tqdm(run(partial(_survey_one, options=options), new), "inputs", len(new), unit="file", disable=None):
        pass
    return {spec: Survey.load(path) for spec, path in paths.items()}


def _survey_one(item: tuple[str, str], options: Options) -> None:
    spec, path = item
    survey(spec, options).save(Path(path))


def plan_all(surveys: dict[str, Survey], inputs: dict[str, str], options: Options, tokenizer: str) -> list[Plan]:
    """A plan for each data set, in the order in which they first come.

    Raises:
        UserError: two data sets would have one name.
    """
    feeds: dict[Key, list[str]] = {}
    for spec, found in surveys.items():
        for key in found.parts:
            feeds.setdefault(key, []).append(spec)
    names = dataset_names(feeds)
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise UserError(f"Two data sets would have the name {twice[0]}; give one of them another source.")
    plans = []
    for key, specs in feeds.items():
        parts = [surveys[spec].parts[key] for spec in specs]
        rows = sum(part.rows for part in parts)
        share = min(1.0, options.cap / rows) if options.cap else 1.0
        buckets = max(1, -(-int(share * sum(part.bytes for part in parts)) // SHARD_BYTES))
        decides = [VERSION, key, [(spec, inputs[spec]) for spec in specs], dataclasses.asdict(options), tokenizer]
        wanted = Wanted(folder_name(names[key]), limit(parts, options.cap), buckets)
        plans.append(Plan(names[key], key, tuple(specs), wanted, tokenizer, _hash(decides)))
    return plans


def folder_name(name: str) -> str:
    """A name that any file system takes, and no two data sets share.

    >>> folder_name("nli")
    'nli'
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:80] or "_"
    return safe if safe == name else f"{safe}-{stable_id(name):x}"


def groups(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Data sets that share inputs, together: they are read once for all."""
    found: list[tuple[set[str], list[Plan]]] = []
    for plan in plans:
        apart = [group for group in found if group[0].isdisjoint(plan.inputs)]
        touching = [group for group in found if not group[0].isdisjoint(plan.inputs)]
        inputs = set(plan.inputs).union(*(group[0] for group in touching))
        found = [*apart, (inputs, [p for group in touching for p in group[1]] + [plan])]
    return [plans for _, plans in found]


def make_group(plans: list[Plan], output: Path, options: Options, beam: dict, run: Callable) -> None:
    """Spill the inputs of some data sets, then write and describe each."""
    from f2jax.data.prepare import builder

    work = output / WORK / plans[0].key
    inputs = list(dict.fromkeys(spec for plan in plans for spec in plan.inputs))
    folders = {spec: work / f"{number:05d}" for number, spec in enumerate(inputs)}
    work.mkdir(parents=True)
    for _ in run(partial(_spill_one, plans=plans, options=options), [(s, str(f)) for s, f in folders.items()]):
        pass
    for plan in plans:
        spilled = builder.Spilled(
            inputs=tuple(str(folders[spec]) for spec in plan.inputs),
            folder=plan.key,
            keys=str(work / "keys" / plan.key),
            buckets=plan.wanted.buckets,
            tokenizer=str(output / TOKENIZER),
            fingerprint=plan.tokenizer,
            max_length=options.max_length,
        )
        cards.forget(output / FINISHED, plan.key)
        shards = {}
        for kind, made in (("documents", builder.Documents), ("rows", builder.Rows)):
            shutil.rmtree(output / kind / plan.key, ignore_errors=True)
            parts = builder.document_shards(spilled) if kind == "documents" else builder.row_shards(spilled)
            shards[kind] = builder.build(made, plan.key, output, parts, beam)
        entry = {"name": plan.name, "kind": plan.source_kind[1], "folder": plan.key, "fingerprint": plan.fingerprint}
        entry["shards"] = {
            "documents": shards["documents"]["train"],
            "rows": {split: shards["rows"].get(split, []) for split in ("train", "validation")},
        }
        cards.write(output / FINISHED, plan.key, entry | cards.describe(output, entry, options.max_length))
    shutil.rmtree(work)


def _spill_one(item: tuple[str, str], plans: list[Plan], options: Options) -> None:
    spec, folder = item
    source_kind = {plan.source_kind: plan.wanted for plan in plans if spec in plan.inputs}
    spill(spec, Path(folder), source_kind, options)


def _here(function: Callable, items: Iterable) -> Iterator:
    return map(function, items)


def _in_processes(function: Callable, items: Sequence, jobs: int) -> Iterator:
    if jobs == 1 or len(items) < 2:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(min(jobs, len(items)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, items)


def _on_beam(function: Callable, items: Sequence, beam: dict) -> Iterator:
    """Results stay in files: a runner hands none back."""
    import apache_beam

    if not items:
        return
    try:
        with apache_beam.Pipeline(runner=beam["beam_runner"], options=beam["beam_options"]) as pipeline:
            _ = pipeline | apache_beam.Create(items) | apache_beam.Reshuffle() | "read" >> apache_beam.Map(function)
    except RuntimeError as error:  # a worker in another process hands its error over as text
        found = re.search(r"UserError: (.+)", str(error))
        if not found:
            raise
        raise UserError(found[1]) from error
    yield from items


def _hash(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()[:32]


def _licence(name: str, licences: Mapping[str, str]) -> str | None:
    return next((text for pattern, text in licences.items() if fnmatchcase(name, pattern)), None)


def beam_options(runner: str | None, options: str) -> dict | None:
    """What `prepare` takes as `beam`, of a runner's name and `name=value,…`; None where no runner is named.

    Raises:
        UserError: Apache Beam is not installed, or has no such runner.
    """
    if not runner:
        return None
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners import create_runner
    except ImportError as error:
        raise UserError("--beam_runner needs Apache Beam; install it with pip install 'f2jax[beam]'.") from error
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--beam_runner {runner}: {str(error).splitlines()[0]}") from error
    return {"beam_runner": runner, "beam_options": PipelineOptions([f"--{x}" for x in options.split(",") if x])}


def table(card: dict) -> str:
    """The data card in lines: a row for each data set, and what was skipped."""
    titles = ("rows", "held out", "documents", "negatives", "languages")
    lines = [f"{'data set':<28} {'kind':<14}" + "".join(f" {title:>10}" for title in titles)]
    for d in card["datasets"]:
        most = d["max_negatives"]["train"]
        counts = (d["rows"]["train"], d["rows"]["validation"], d["documents"], most, len(d["languages"]))
        lines.append(f"{d['name']:<28} {d['kind']:<14}" + "".join(f" {count:>10,}" for count in counts))
    lines += [f"Skipped {count:,} rows: {reason}." for reason, count in card["skipped"].items()]
    lines += [f"In {count:,} rows: {note}." for note, count in card["noted"].items()]
    return "\n".join(lines)
