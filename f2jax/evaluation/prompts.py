"""The instructions of evaluation tasks: those of F2LLM-v2 in mteb, or the user's own."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args

from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskType
from mteb.models.model_implementations.codefuse_models import F2LLM_v2_0B6

from f2jax import files
from f2jax.errors import UserError, did_you_mean
from f2jax.evaluation import selection
from f2jax.evaluation.local import LocalTask
from f2jax.evaluation.own import OwnTask
from f2jax.inference.embedder import Embedder

REFERENCE = F2LLM_v2_0B6.loader_kwargs  # the same for all sizes of F2LLM-v2
TEMPLATE = REFERENCE["instruction_template"]


@dataclass(frozen=True)
class Prompts:
    """Instructions by task name, task type, `query` or `document`, in this order. An empty instruction means none.

    Documents get only an instruction that the user gave for `document`.
    """

    instructions: dict[str, str]
    given: dict[str, str] = field(default_factory=dict)  # the user's own among them, which are looked up first
    template: str = TEMPLATE  # contains {instruction}; empty: no instructions
    mark: str = ""  # identifies the user's own instructions in results; empty for the reference's
    # Complete prompts of tasks on your own files without an instruction: {task: {`query`, `document`, `text`: prompt}}.
    whole: dict[str, dict[str, str]] = field(default_factory=dict)

    def for_tasks(self, tasks: Iterable[AbsTask]) -> "Prompts":
        """Adds to each local task the instruction of the mteb task that it is adapted from."""
        originals = [
            (task.metadata.name, original)
            for task in tasks
            if isinstance(task, LocalTask)
            for original in task.metadata.adapted_from or ()
        ]

        def adapted(known: dict[str, str]) -> dict[str, str]:
            return {name: known[original] for name, original in originals if original in known} | known

        return dataclasses.replace(self, instructions=adapted(self.instructions), given=adapted(self.given))

    def for_own(self, tasks: Iterable[AbsTask], embedder: Embedder) -> "Prompts":
        """Adds the model's own prompts for tasks on the user's files."""
        alike = dict.fromkeys(("query", "document", "text"), embedder.choose_prompt())
        by_role = alike | {name: embedder.prompts.get(name, "") for name in ("query", "document")}
        own = [task for task in tasks if isinstance(task, OwnTask)]
        return dataclasses.replace(self, whole={task.metadata.name: alike if task.alike else by_role for task in own})


NONE = Prompts({}, template="")
ORDER = "given first"  # changes if the same instructions are applied in a new way


def read_instructions(
    path: str | None = None, given: dict[str, str] | None = None, tasks: Iterable[AbsTask] = ()
) -> Prompts:
    """Returns the reference's instructions, overridden by a JSON file {name: instruction} and then by `given`.

    In the file, `template` is the text around the instruction. The path `none` means no instructions.

    Args:
        tasks: tasks that may be named besides those that mteb and f2jax know.

    Raises:
        UserError: the file cannot be read or has another form, its template lacks {instruction}, `given` is combined
            with `none`, or a name is not a task, a type, `query` or `document`.
    """
    if path == "none":
        if given:
            raise UserError("--prompts none cannot be combined with --prompt; give one of them.")
        return dataclasses.replace(NONE, mark="none")
    overrides = dict(given or {})
    template = TEMPLATE
    if path:
        with files.open_file(path) as file:
            try:
                content = json.loads(file.read())
            except ValueError as error:
                raise UserError(f"{path} is no JSON ({error}); give an object with an instruction by name.") from error
        if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
            raise UserError(f"{path} should be a JSON object with an instruction by name of task, type or query.")
        template = content.pop("template", TEMPLATE)
        overrides = content | overrides
    if "{instruction}" not in template:
        raise UserError(f"The template in {path} should hold {{instruction}}.")
    try:
        template.format(instruction="")
    except (LookupError, ValueError) as error:
        message = f"The template in {path} should hold no braces but {{instruction}}; the text comes after it."
        raise UserError(message) from error
    if overrides:
        _check_names(overrides, [task.metadata.name for task in tasks])
    mark = "" if not overrides and template == TEMPLATE else _mark([ORDER, template, overrides])
    return Prompts(REFERENCE["prompts_dict"] | overrides, overrides, template, mark)


def _check_names(names: Iterable[str], own: Iterable[str]) -> None:
    known = {*REFERENCE["prompts_dict"], *get_args(TaskType), *selection.known_names(), *own}
    for name in names:
        if name not in known:
            close = did_you_mean(name, known)
            hint = close if close.startswith("; did") else "; give a task, its type, query or document."
            raise UserError(f"An instruction is for '{name}', which is not a task or type{hint}")


def _mark(content: list) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
