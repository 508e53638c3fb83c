"""The options of `f2jax serve`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeOptions:
    """Where and what is served."""

    host: str = "127.0.0.1"  # address to listen at; 0.0.0.0: every one of this machine, without a password
    port: int = 8000  # port; 0: any free one
    name: str | None = None  # the model's name in answers; None: that of its folder
    prompt_name: str | None = None  # a prompt of the model, such as query, where a request names none
    cut: bool = False  # cut longer texts instead of refusing them
    batch_size: int = 1024  # maximum number of texts in a device batch
