"""`f2jax serve`: serve embeddings over HTTP, compatible with OpenAI's API."""

from dataclasses import asdict

from f2jax.commands.options import Arguments
from f2jax.inference.options import ModelOptions, ReadOptions
from f2jax.serve.options import ServeOptions


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "serve",
        "Answer POST /v1/embeddings like OpenAI's API. Requests that arrive together are embedded together.",
        "--model mini --port 8000",
        argv,
        ModelOptions,
        ReadOptions,
        ServeOptions,
    )
    model, reading = arguments.read(ModelOptions), arguments.read(ReadOptions)
    options = arguments.read(ServeOptions)

    from f2jax.inference.embedder import Embedder
    from f2jax.serve.openai import serve_api

    embedder = Embedder.from_pretrained(model.model, model.dtype, **asdict(reading))
    serve_api(embedder, options.name or model.model.rstrip("/").rsplit("/", 1)[-1], options)
