"""Task instructions before texts (recipe 2.6), and which documents carry one."""

import re
from dataclasses import dataclass

from f2jax.data.record import Record, in_share, stable_id


@dataclass(frozen=True)
class Instructions:
    """Which texts carry a task's instruction (recipe 2.1): every query, and a share of symmetric tasks' documents."""

    enabled: bool = True
    by_name: dict[str, str] | None = None  # SOURCE-KIND, source or kind → task sentence; the closest counts
    symmetric_share: float = 0.3
    symmetric_sources: tuple[str, ...] = ()
    seed: int = 0

    def task(self, record: Record) -> str | None:
        names = self.by_name or {}
        closest = (f"{record.source}-{record.kind}", record.source, record.kind)
        return record.instruction or next((names[name] for name in closest if name in names), None)

    def query(self, record: Record) -> str:
        return add_instruction(record.query, self.task(record)) if self.enabled else record.query

    def document(self, text: str, record: Record) -> str:
        symmetric = record.symmetric or record.kind == "clustering" or record.source in self.symmetric_sources
        if self.enabled and symmetric and in_share(stable_id(text), self.symmetric_share, "instruction", self.seed):
            return add_instruction(text, self.task(record))
        return text


TEMPLATE = "Instruct: {task}\nQuery: {text}"  # with a space after "Query:", unlike Qwen3-Embedding
HAS_ONE = re.compile(r"Instruct: .*?\n ?Query:", re.DOTALL)  # in any template that released rows may come with


def add_instruction(text: str, task: str | None) -> str:
    """The text with its task before it; unchanged where there is no task or the text has an instruction already.

    >>> add_instruction("Kenia", "Find the English name.")
    'Instruct: Find the English name.\\nQuery: Kenia'
    """
    if not task or HAS_ONE.match(text):
        return text
    return TEMPLATE.format(task=task, text=text)
