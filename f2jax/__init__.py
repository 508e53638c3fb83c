"""f2jax: the F2LLM-v2 family of multilingual text-embedding models in JAX.

Importing the package starts no accelerator and imports no JAX; `Embedder` is loaded on first use.
"""

__version__ = "0.1.0"
__all__ = ["Embedder", "__version__"]


def __getattr__(name: str):
    if name == "Embedder":
        from f2jax.inference.embedder import Embedder

        return Embedder
    raise AttributeError(f"module 'f2jax' has no attribute {name!r}")
