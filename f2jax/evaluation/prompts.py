"""Which instruction goes before the texts of a task: mteb's table for F2LLM-v2, or the user's own."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskType
from mteb.models.model_implementations.codefuse_models import F2LLM_v2_0B6

from f2jax import files
from f2jax.errors import UserError, did_you_mean
from f2jax.evaluation import selection
from f2jax.evaluation.local_tasks import LocalTask

REFERENCE = F2LLM_v2_0B6.loader_kwargs  # all sizes of F2LLM-v2 have the same
TEMPLATE = REFERENCE["instruction_template"]


@dataclass(frozen=True)
class Prompts:
    """Instructions by task name, task type or `query`, the first that there is; an empty one means none."""

    instructions: dict[str, str]
    template: str = TEMPLATE  # with {instruction}; empty: no instructions
    mark: str = ""  # tells the user's own apart from the reference's, which have none

    def for_tasks(self, tasks: Iterable[AbsTask]) -> "Prompts":
        """The same with, for each local task, the instruction of the task that it is adapted from."""
        more = {
            task.metadata.name: self.instructions[original]
            for task in tasks
            if isinstance(task, LocalTask)
            for original in task.metadata.adapted_from
            if original in self.instructions
        }
        return dataclasses.replace(self, instructions=more | self.instructions)


NONE = Prompts({}, template="")


def read_prompts(path: str | None = None, given: dict[str, str] | None = None) -> Prompts:
    """The reference's instructions, with those of a JSON file {name: instruction} and then `given` in their place.

    The name `template` in the file stands for the text around the instruction. The path `none` means no instructions.

    Raises:
        UserError: the file cannot be read, or is not such a JSON object, or its template lacks {instruction}, or
            `given` stands beside `none`, or a name is no task, type, `query` or `document`.
    """
    if path == "none":
        if given:
            raise UserError("--prompts none leaves no place for --prompt; give one of them.")
        return dataclasses.replace(NONE, mark="none")
    own = dict(given or {})
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
        own = content | own
    if "{instruction}" not in template:
        raise UserError(f"The template in {path} should hold {{instruction}}.")
    if own:
        _check_names(own)
    mark = "" if not own and template == TEMPLATE else _mark([template, own])
    return Prompts(REFERENCE["prompts_dict"] | own, template, mark)


def _check_names(names: Iterable[str]) -> None:
    known = {*REFERENCE["prompts_dict"], *get_args(TaskType), *selection.known_names()}
    for name in names:
        if name not in known:
            close = did_you_mean(name, known)
            hint = close if close.startswith("; did") else "; give a task, its type, query or document."
            raise UserError(f"An instruction is for '{name}', which is no task or type{hint}")


def _mark(content: list) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
