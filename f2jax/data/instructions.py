"""Task instructions before texts (recipe 2.6), and which documents carry one."""

TEMPLATE = "Instruct: {task}\nQuery: {text}"  # with a space after "Query:", unlike Qwen3-Embedding


def add_instruction(text: str, task: str | None) -> str:
    """The text with its task before it; unchanged where there is no task or the text has an instruction already.

    >>> add_instruction("Kenia", "Find the English name.")
    'Instruct: Find the English name.\\nQuery: Kenia'
    """
    if not task or (text.startswith("Instruct: ") and "\nQuery:" in text):
        return text
    return TEMPLATE.format(task=task, text=text)
