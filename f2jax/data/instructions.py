"""Task instructions before texts (recipe 2.6), and which documents carry one."""

import re

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
