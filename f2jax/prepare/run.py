"""`f2jax prepare`: from source files to a corpus folder.

A data set that is finished, from the same rows by the same options, is not made again, and an input that was read is
read again only where its texts are needed. Memory grows with the distinct documents of the largest data set (8 bytes
each), with the rows of the corpus (1 byte each), and with those of the largest input (8 bytes each), no further.
"""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax import __version__, files
from f2jax.data.corpus import CARD, TOKENIZER, VERSION
from f2jax.data.sources import expand, is_single_input, source_files
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.errors import UserError
from f2jax.prepare import data_card as cards
from f2jax.prepare.curate.decontaminate import load_index, set_files
from f2jax.prepare.datasets import DatasetPlan, groups, plan_datasets, settings_digest
from f2jax.prepare.duplicates import REASONS, decide
from f2jax.prepare.listing import list_duplicates, write_listing
from f2jax.prepare.options import PrepareOptions
from f2jax.prepare.read_inputs import InputResult, InputSurvey, read_input
from f2jax.prepare.spill import WORK, spill
from f2jax.prepare.tokenizer import own_tokenizer
from f2jax.prepare.workers import run_here, run_in_processes, run_on_beam

SURVEYS, FINISHED, VOCABULARY = "survey", "finished", "vocabulary"  # folders beside the data sets
STATES, SETS = "states", "sets"  # in the folder for work: what becomes of each row of each input; texts of data sets


def prepare(
    sources: Sequence[str],
    output: str | Path,
    tokenizer: str | Path | int,
    options: PrepareOptions,
    licences: Mapping[str, str] | None = None,
    jobs: int = 1,
    beam: dict | None = None,
    listing: str | Path | None = None,
) -> dict:
    """Write a corpus of `sources` to the folder `output`; returns the data card.

    Args:
        sources: as in `data.sources` of a training config.
        tokenizer: a file or folder; a number: pieces of a SentencePiece model to train on the texts.
        licences: {name or pattern: licence}, for the card.
        jobs: processes; each reads inputs and makes data sets of its own.
        beam: `beam_runner` and `beam_options` of TFDS; None: no Beam.
        listing: a file for the skipped rows, as lines of JSON; None: they are counted alone.

    Raises:
        UserError: an input, the tokenizer or an option cannot be used, or no row is left.
    """
    if files.is_remote(output):
        raise UserError(f"--output {output}: a corpus is written to a local or mounted folder; copy it from there.")
    if jobs < 1:
        raise UserError(f"--jobs {jobs} should be at least 1.")
    output = Path(output).resolve()
    inputs = list_inputs(sources)
    if options.curate and any(map(set_files, options.curate.evaluation_sets)):
        load_index.cache_clear()  # their files may have changed since an earlier call
    if listing:
        files.write_atomically(listing, "")  # better now than after hours is it said that it cannot be written
    if isinstance(tokenizer, int):
        chosen = own_tokenizer(inputs, tokenizer, options.seed, output / VOCABULARY)
    else:
        chosen = load_tokenizer(tokenizer)
    fingerprint = chosen.fingerprint()
    run = partial(run_on_beam, beam=beam) if beam else partial(run_in_processes, jobs=jobs)

    for left in (output / SURVEYS).glob("*.part"):  # by a run that was killed
        shutil.rmtree(left)
    taken = [InputResult(spec, output / SURVEYS / name) for spec, name in names_of(inputs, options).items()]
    read = partial(read_input, options=options, listing=bool(listing))
    wanted = ["survey.json", *(["skipped.jsonl"] if listing else [])]
    _with_bar(run, read, [one for one in taken if not all(one.path(name).exists() for name in wanted)])
    surveys = [one.survey() for one in taken]
    states = decide(taken, [survey.rows for survey in surveys], options.curate)
    counts = count(surveys, states)
    plans = plan_datasets(taken, [survey.parts for survey in surveys], states, options, fingerprint)
    if not plans:
        reasons = "; ".join(f"{number:,} x {reason}" for reason, number in counts["skipped"].items())
        raise UserError(f"No row is left ({reasons}); change the options that leave them out, or the inputs.")

    todo = [plan for plan in plans if not cards.is_finished(output / FINISHED, plan.key, plan.fingerprint)]
    listings = listings_of(taken, states) if listing else {}
    unlisted = [number for number, path in listings.items() if not path.exists()]
    needed = sorted({*unlisted, *(number for plan in todo for number in plan.inputs)})
    _with_bar(run, read, [taken[number] for number in needed if not taken[number].records.exists()])
    if todo:
        (output / CARD).unlink(missing_ok=True)
    keep_tokenizer(chosen, output / TOKENIZER)  # not before: a corpus that stays as it is keeps its own
    shutil.rmtree(output / WORK, ignore_errors=True)
    (output / WORK / STATES).mkdir(parents=True)
    for number in needed:
        np.save(states_path(output, number), states[number])
    for _ in run(_list_one, [(taken[n].records, states_path(output, n), listings[n]) for n in unlisted]):
        pass
    make = partial(
        make_group, output=output, taken=taken, options=options, beam=beam or {}, run=run if beam else run_here
    )
    work = groups(todo)
    with tqdm(total=len(todo), desc="data sets", disable=None) as bar:
        for plans_made, _ in zip(work, (map if beam else run)(make, work), strict=True):
            bar.update(len(plans_made))

    if listing:
        parts = [path for number, one in enumerate(taken) for path in (one.listing, listings.get(number)) if path]
        write_listing(parts, listing)
    (output / CARD).unlink(missing_ok=True)  # it names nothing that is removed now
    clear(output, taken, plans)
    made = [cards.read_data_card(output / FINISHED, plan.key) for plan in plans]
    card = {
        "version": VERSION,
        "f2jax": __version__,
        "tokenizer": fingerprint,
        "options": dataclasses.asdict(options),
        **counts,
        "datasets": [entry | {"licence": _licence(entry["name"], licences or {})} for entry in made],
    }
    files.write_atomically(output / CARD, json.dumps(card, indent=1, ensure_ascii=False))
    return card


def _with_bar(run: Callable, read: Callable, taken: Sequence[InputResult]) -> None:
    for _ in tqdm(run(read, taken), "inputs", len(taken), unit="file", disable=None if taken else True):
        pass


def list_inputs(sources: Iterable[str]) -> dict[str, str]:
    """What there is to read, in order, and a signature that changes with its content.

    Raises:
        UserError: there are no sources, or one is missing.
    """
    found = {}
    for spec in sources:
        for name in [spec] if is_single_input(spec) else expand(spec):
            found[name] = signature(source_files(name))
    if not found:
        raise UserError("There is nothing to prepare; name files or built-in sets with --input.")
    return found


def signature(paths: Sequence[str]) -> str:
    """Changes with the content of files; of no file, which is what a built-in set has, with the version of f2jax."""
    found = []
    for path in paths:
        filesystem, name = files.filesystem(path)
        info = filesystem.info(name)
        found.append(" ".join(str(info[key]) for key in ("name", "size", "mtime", "md5Hash", "etag") if key in info))
    return "\n".join(found) or f"f2jax {__version__}"


def names_of(inputs: Mapping[str, str], options: PrepareOptions) -> dict[str, str]:
    """A name for each input, of all that decides which records it gives."""
    curate = options.curate and dataclasses.asdict(options.curate)
    sets = [signature(set_files(spec)) for spec in options.curate.evaluation_sets] if options.curate else []
    return {
        spec: settings_digest([spec, sign, options.kinds, options.seed, curate, sets]) for spec, sign in inputs.items()
    }


def keep_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer to `folder`, whole or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    for path in (part, folder):
        shutil.rmtree(path, ignore_errors=True)
    tokenizer.save(part)
    part.rename(folder)


def count(surveys: Sequence[InputSurvey], states: Sequence[np.ndarray]) -> dict[str, dict]:
    """Over all inputs, for the card: rows skipped by reason, rows by note, rows and share of each language found.

    Languages and notes are those of all rows that pass the steps for single rows: duplicates are among them.
    """
    skipped, noted, languages = Counter(), Counter(), Counter()
    for survey, state in zip(surveys, states, strict=True):
        for total, found in ((skipped, survey.skipped), (noted, survey.noted), (languages, survey.languages)):
            total.update(found)
        for which, reason in REASONS.items():
            skipped[reason] += int((state == which).sum())
    return {
        "skipped": dict(sorted((+skipped).items())),
        "noted": dict(sorted(noted.items())),
        "identified": {
            code: {"rows": rows, "share": rows / languages.total()} for code, rows in sorted(languages.items())
        },
    }


def states_path(output: Path, number: int) -> Path:
    return output / WORK / STATES / f"{number:05d}.npy"


def listings_of(taken: Sequence[InputResult], states: Sequence[np.ndarray]) -> dict[int, Path]:
    """Where the duplicates of each input that has some are listed."""
    found = {}
    for number, state in enumerate(states):
        duplicates = np.isin(state, list(REASONS))
        if duplicates.any():
            found[number] = taken[number].path(f"duplicates-{settings_digest(mask=duplicates)}.jsonl")
    return found


def _list_one(item: tuple[Path, Path, Path]) -> None:
    list_duplicates(*item)


def make_group(
    plans: list[DatasetPlan],
    output: Path,
    taken: Sequence[InputResult],
    options: PrepareOptions,
    beam: dict,
    run: Callable,
) -> None:
    """Spill the inputs of some data sets, then write and describe each."""
    from f2jax.prepare import tfds

    work = output / WORK / SETS / plans[0].key
    folders = {number: work / f"{number:05d}" for plan in plans for number in plan.inputs}
    work.mkdir(parents=True)
    items = [(taken[number].records, states_path(output, number), folder) for number, folder in folders.items()]
    wanted = {plan.source_kind: plan.wanted for plan in plans}
    for _ in run(partial(_spill_one, wanted=wanted, options=options), items):
        pass
    for plan in plans:
        spilled = tfds.Spilled(
            inputs=tuple(str(folders[number]) for number in plan.inputs),
            folder=plan.key,
            keys=str(work / "keys" / plan.key),
            buckets=plan.wanted.buckets,
            tokenizer=str(output / TOKENIZER),
            fingerprint=plan.tokenizer,
            max_length=options.max_length,
        )
        cards.forget(output / FINISHED, plan.key)
        shards = {}
        for kind, made in (("documents", tfds.Documents), ("rows", tfds.Rows)):
            shutil.rmtree(output / kind / plan.key, ignore_errors=True)
            parts = tfds.document_shards(spilled) if kind == "documents" else tfds.row_shards(spilled)
            shards[kind] = tfds.build(made, plan.key, output, parts, beam)
        entry = {"name": plan.name, "kind": plan.source_kind[1], "folder": plan.key, "fingerprint": plan.fingerprint}
        entry["shards"] = {
            "documents": shards["documents"]["train"],
            "rows": {split: shards["rows"].get(split, []) for split in ("train", "validation")},
        }
        cards.write_data_card(output / FINISHED, plan.key, entry | cards.describe(output, entry, options.max_length))
    shutil.rmtree(work)
    for number in folders:
        taken[number].records.unlink()


def _spill_one(item: tuple[Path, Path, Path], wanted: dict, options: PrepareOptions) -> None:
    spill(*item, wanted, options)


def clear(output: Path, taken: Sequence[InputResult], plans: Sequence[DatasetPlan]) -> None:
    """Remove what is not needed once all data sets are whole, and what earlier runs made for others."""
    shutil.rmtree(output / WORK, ignore_errors=True)
    for one in taken:
        one.records.unlink(missing_ok=True)
    names = {plan.key for plan in plans}
    keep = {SURVEYS: {one.folder.name for one in taken}, FINISHED: {f"{name}.json" for name in names}}
    for folder, stays in (keep | {"documents": names, "rows": names}).items():
        for path in (output / folder).iterdir():
            if path.name not in stays:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _licence(name: str, licences: Mapping[str, str]) -> str | None:
    return next((text for pattern, text in licences.items() if fnmatchcase(name, pattern)), None)
