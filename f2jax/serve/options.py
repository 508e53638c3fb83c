"""The options of `f2jax serve`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeOptions:
    """Server."""

    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: all addresses of this machine, without a password
    port: int = 8000  # port; 0: any free port
    name: str | None = None  # name of the model in answers; None: the name of its folder
    prompt_name: str | None = None  # prompt of the model, such as query, for requests that name none
    cut: bool = False  # cut texts that are too long instead of refusing them
    batch_size: int = 1024  # largest number of texts in a batch
