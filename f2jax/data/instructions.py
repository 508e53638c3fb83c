"""Task instructions before texts (recipe 2.6)."""

import re
from dataclasses import dataclass, field

from f2jax.data.record import Record, in_share, stable_id

TEMPLATE = "Instruct: {task}\nQuery: {text}"  # with a space after "Query:", unlike Qwen3-Embedding
INSTRUCTED = re.compile(r"Instruct: (.*?)\n ?Query: ?", re.DOTALL)  # matches all templates in the released data


@dataclass(frozen=True)
class Instructions:
    """Instructions: every query gets one, and so does a share of the documents of symmetric tasks (recipe 2.1)."""

    enabled: bool = field(default=True, metadata={"option": "instructions"})  # put instructions before texts (stage 2)
    # NAME=INSTRUCTION, where NAME is SOURCE-KIND, a source, `symmetric` or a kind, and the first of these that fits is
    # used; or a FILE.json of {name: instruction}
    by_name: dict[str, str] = field(default_factory=dict, metadata={"option": "tasks"})
    symmetric_share: float = 0.3  # share of the documents of symmetric tasks that get the instruction too
    symmetric_sources: tuple[str, ...] = ()  # sources with symmetric tasks, besides all of clustering
    seed: int = 0  # seed for that share

    def task(self, record: Record) -> str | None:
        """Returns a record's instruction: its own, or the one for its source and kind, source, symmetry or kind."""
        closest = (f"{record.source}-{record.kind}", record.source, *["symmetric"] * record.symmetric, record.kind)
        return record.instruction or next((self.by_name[name] for name in closest if name in self.by_name), None)

    def query(self, record: Record) -> str:
        """Returns the query with its instruction, if there is one."""
        return add_instruction(record.query, self.task(record)) if self.enabled else record.query

    def document(self, text: str, record: Record) -> str:
        """Returns a document of the record, with an instruction if it gets one."""
        symmetric = record.symmetric or record.kind == "clustering" or record.source in self.symmetric_sources
        if self.enabled and symmetric and in_share(stable_id(text), self.symmetric_share, "instruction", self.seed):
            return add_instruction(text, self.task(record))
        return text


def add_instruction(text: str, task: str | None) -> str:
    """Returns the text with an instruction; unchanged if there is none, or if the text already has one.

    >>> add_instruction("Kenia", "Find the English name.")
    'Instruct: Find the English name.\\nQuery: Kenia'
    """
    if not task or INSTRUCTED.match(text):
        return text
    return TEMPLATE.format(task=task, text=text)


def split_instruction(text: str) -> tuple[str | None, str]:
    """Splits a text into its instruction, or None, and the rest.

    >>> split_instruction("Instruct: Find the English name.\\nQuery: Kenia")
    ('Find the English name.', 'Kenia')
    """
    instructed = INSTRUCTED.match(text)
    return (instructed[1].strip() or None, text[instructed.end() :]) if instructed else (None, text)
