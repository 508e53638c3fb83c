"""Counts texts that were truncated because they are longer than the model's limit."""

from dataclasses import astuple, dataclass


@dataclass
class Truncation:
    """How many of the encoded texts were longer than `max_length`, and by how many tokens."""

    texts: int = 0
    tokens: int = 0
    cut_texts: int = 0
    lost_tokens: int = 0

    def add(self, other: "Truncation") -> None:
        self.texts, self.tokens = self.texts + other.texts, self.tokens + other.tokens
        self.cut_texts, self.lost_tokens = self.cut_texts + other.cut_texts, self.lost_tokens + other.lost_tokens

    def since(self, before: "Truncation") -> "Truncation":
        """Returns what was added since the copy `before` was made."""
        return Truncation(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def __str__(self) -> str:
        """A sentence for the user; empty if no text was cut."""
        if not self.cut_texts:
            return ""
        share = self.lost_tokens / self.tokens
        return f"{self.cut_texts:,} of {self.texts:,} texts were cut to the model's length: {share:.1%} of all tokens."
