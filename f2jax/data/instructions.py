"""Task instructions before texts (recipe 2.6), and which documents carry one."""

import re
from dataclasses import dataclass, field

from f2jax.data.record import Record, in_share, stable_id

TEMPLATE = "Instruct: {task}\nQuery: {text}"  # with a space after "Query:", unlike Qwen3-Embedding
INSTRUCTED = re.compile(r"Instruct: (.*?)\n ?Query: ?", re.DOTALL)  # any template that released rows may come with


@dataclass(frozen=True)
class Instructions:
    """Instructions: every query gets one, and so does a share of the documents of symmetric tasks (recipe 2.1)."""

    enabled: bool = field(default=True, metadata={"option": "instructions"})  # put instructions before texts (stage 2)
    # NAME=INSTRUCTION, where NAME is SOURCE-KIND, a source, `symmetric` or a kind, and the first of these that fits is
    # used; or a FILE.json of {name: instruction}
    by_name: dict[str, str] = field(default_factory=dict, metadata={"option": "tasks"})
    symmetric_share: float = 0.3  # share of the documents of symmetric tasks that get the instruction too
    symmetric_sources: tuple[str, ...] = ()  # sources with symmetric tasks, besides all of clustering
    seed: int = 0  # seed of that share

    def task(self, record: Record) -> str | None:
        """The task sentence of a record: its own, or that of its source and kind, source, symmetry, or kind."""
        closest = (f"{record.source}-{record.kind}", record.source, *["symmetric"] * record.symmetric, record.kind)
        return record.instruction or next((self.by_name[name] for name in closest if name in self.by_name), None)

    def query(self, record: Record) -> str:
        """The query as the model sees it."""
        return add_instruction(record.query, self.task(record)) if self.enabled else record.query

    def document(self, text: str, record: Record) -> str:
        """A document of the record as the model sees it."""
        symmetric = record.symmetric or record.kind == "clustering" or record.source in self.symmetric_sources
        if self.enabled and symmetric and in_share(stable_id(text), self.symmetric_share, "instruction", self.seed):
            return add_instruction(text, self.task(record))
        return text


def add_instruction(text: str, task: str | None) -> str:
    """The text with its task before it; unchanged where there is no task or the text has an instruction already.

    >>> add_instruction("Kenia", "Find the English name.")
    'Instruct: Find the English name.\\nQuery: Kenia'
    """
    if not task or INSTRUCTED.match(text):
        return text
    return TEMPLATE.format(task=task, text=text)


def split_instruction(text: str) -> tuple[str | None, str]:
    """(task sentence, text) of a text that may have an instruction before it; the sentence is None where it has none.

    >>> split_instruction("Instruct: Find the English name.\\nQuery: Kenia")
    ('Find the English name.', 'Kenia')
    """
    instructed = INSTRUCTED.match(text)
    return (instructed[1].strip() or None, text[instructed.end() :]) if instructed else (None, text)
