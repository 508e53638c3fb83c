"""`Embedder`: texts in, vectors out. Argument names are those of sentence-transformers."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh
from tqdm import tqdm

from f2jax import files
from f2jax.checkpoints import package, workdir
from f2jax.checkpoints.workdir import check_dtype, tokenizer_folder
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.errors import UserError, did_you_mean
from f2jax.inference import multihost
from f2jax.inference.encode import encode_texts, make_embed
from f2jax.inference.quantize import check_precision, quantize
from f2jax.model import nested
from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import param_shardings

DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the first that a model has, as in sentence-transformers


class Embedder:
    """An embedding model ready for use.

    >>> model = Embedder.from_pretrained("runs/nano")
    >>> model.similarity(model.encode_query(["Kenia"]), model.encode_document(["Kenya", "Keynes"]))
    """

    def __init__(
        self,
        architecture: Qwen3Config,
        params,
        tokenizer: Tokenizer,
        card: package.ModelSettings,
        dtype: str = "float32",
        mesh: Mesh | None = None,
        origin: str = "",
    ):
        """Args:
            mesh: devices that share the rows of a batch, and on which `params` lie; None: one device.
            origin: the folder that the model was loaded from; `save_pretrained` leaves it as it is.

        Raises:
            UserError: tokenizer and architecture do not fit each other, or the dtype is unknown.
        """
        check_dtype(dtype)
        tokenizer.check_vocab(architecture.vocab_size)
        self.architecture, self.params, self.tokenizer, self.card = architecture, params, tokenizer, card
        self.model = Qwen3(architecture, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
        self.mesh, self.origin = mesh, origin
        self._embed = make_embed(self.model, mesh)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        dtype: str = "float32",
        truncate_layers: int | None = None,
        table_rank: int | None = None,
        fsdp: int = 1,
    ) -> "Embedder":
        """Load a folder, a hub id, a gs:// path or a workdir (its newest readable checkpoint) onto all devices.

        Args:
            truncate_layers: keep the first so many layers, of a model that was trained with `loss.exits`.
            table_rank: keep so many columns of a factorized token table.
            fsdp: devices that share one copy of the weights; 1: each has all of them.

        Raises:
            UserError: the model is not there, or cannot be read, or the devices are no multiple of `fsdp`.
        """
        check_dtype(dtype)
        path = files.resolve_model(name)
        mesh = make_mesh(fsdp=fsdp) if fsdp > 1 or jax.device_count() > 1 else None
        shardings = mesh and (lambda architecture: param_shardings(abstract_params(architecture), mesh))
        weights = workdir.load_weights(path, jnp.dtype(dtype), shardings)
        architecture, params = nested.cut_nested(*weights, layers=truncate_layers, rank=table_rank)
        card = package.read_settings(path, architecture)
        origin = path if files.is_remote(path) else str(Path(path).resolve())
        return cls(architecture, params, load_tokenizer(tokenizer_folder(path)), card, dtype, mesh, origin)

    @property
    def dim(self) -> int:
        """Width of an embedding before truncation."""
        return self.architecture.width

    @property
    def max_length(self) -> int:
        """Tokens of a text that are read, end token included; what is longer is truncated."""
        return self.card.max_length

    @property
    def matryoshka_dims(self) -> tuple[int, ...]:
        """Dimensions that the model was trained to be truncated to, largest first."""
        return self.card.matryoshka_dims

    @property
    def prompts(self) -> dict[str, str]:
        """Texts to put before a text, by name."""
        return self.card.prompts

    @cached_property
    def fingerprint(self) -> str:
        """A hash of architecture, tokenizer, card, dtype and one row of every weight of every layer: a layer less or
        one more training step changes it, and the package of a workdir has that of the workdir.

        Where several processes share the weights, all of them ask for it together the first time.
        """
        parts = (self.architecture, self.tokenizer.identity(), self.card, self.model.dtype)
        digest = hashlib.sha256(repr(parts).encode())
        for path, weight in sorted(flatten_dict(self.params).items()):
            layers = path[0] == "layers"  # stacked; of shared weights the devices exchange these rows alone
            some = weight[(slice(None),) * layers + (0,) * (weight.ndim - 1 - layers)]
            digest.update(
                np.asarray(some if some.is_fully_addressable else process_allgather(some, tiled=True)).tobytes()
            )
        return digest.hexdigest()

    @cached_property
    def _weights(self):
        """What is computed with: `params`, on a CPU with float32 layers, to which XLA would turn them at each call."""
        if jax.default_backend() != "cpu":
            return self.params
        wide = jax.tree.map(lambda x: x if x.dtype == jnp.float32 else x.astype(jnp.float32), self.params["layers"])
        return self.params | {"layers": wide}

    def encode(
        self,
        texts: str | Iterable[str],
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int = 1_024,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """Embeddings [n, dim] in the order of `texts`; [dim] for a single string.

        Truncated first, then normalized, then quantized.

        Args:
            prompt: put before every text as it is; default: the model's default prompt, where it has one.
            prompt_name: a name in `prompts`, in the place of `prompt`.
            batch_size: texts of one device batch at most.
            truncate_dim: keep the first so many dimensions.
            precision: float32, or int8, uint8, binary, ubinary in the layouts of sentence-transformers.
            show_progress_bar: default: from a thousand texts on.

        Raises:
            UserError: an item is no string, `truncate_dim` is not in 1 … dim, or a name is unknown.
        """
        if isinstance(texts, str):
            options = (prompt, prompt_name, batch_size, truncate_dim, normalize_embeddings, precision, False)
            return self.encode([texts], *options)[0]
        dim = self.dim if truncate_dim is None else truncate_dim
        if not 1 <= dim <= self.dim:
            raise UserError(f"truncate_dim={dim} is out of range; this model has 1 to {self.dim} dimensions.")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} should be at least 1.")
        check_precision(precision)
        prompt = self._prompt(prompt, prompt_name)
        if not isinstance(texts, Iterable):
            raise UserError(f"The texts are of type {type(texts).__name__}; give a string or a list of strings.")
        texts = list(texts)
        bad = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if bad is not None:
            raise UserError(f"Text number {bad} is of type {type(texts[bad]).__name__}; give strings.")

        sequences = self.tokenizer.encode([prompt + text for text in texts], self.max_length)
        show = len(texts) >= 1_000 if show_progress_bar is None else show_progress_bar
        with tqdm(total=len(texts), unit="text", unit_scale=True, disable=not show, dynamic_ncols=True) as bar:
            e_sd = self.encode_tokens(sequences, batch_size, bar.update)
        e_se = e_sd[:, :dim]
        if normalize_embeddings:
            e_se = e_se / np.maximum(np.linalg.norm(e_se, axis=1, keepdims=True), 1e-12)
        return quantize(e_se, precision)

    def encode_tokens(
        self, sequences: Sequence[np.ndarray], batch_size: int = 1_024, progress: Callable[[int], None] = lambda _: None
    ) -> np.ndarray:
        """Raw states, float32 [n, dim], of int32 token sequences that end with the end token.

        Args:
            progress: is told after each batch how many more are done.
        """
        if self.mesh:
            multihost.call_on_all(sequences, batch_size)
        options = batch_size, progress, self.mesh
        return encode_texts(self._embed, self._weights, sequences, self.dim, self.tokenizer.pad_id, *options)

    def encode_query(self, texts, **options) -> np.ndarray:
        """`encode` with the prompt named `query`, or none, where no other prompt is given."""
        return self.encode(texts, **self._with_prompt(("query",), options))

    def encode_document(self, texts, **options) -> np.ndarray:
        """`encode` with the prompt named `document` (or `passage`, or `corpus`), or none, where no other is given."""
        return self.encode(texts, **self._with_prompt(DOCUMENT_PROMPTS, options))

    def similarity(self, a, b) -> np.ndarray:
        """Similarities [n, m] of embeddings [n, dim] and [m, dim], by the function that the model's folder declares:
        the cosine, the dot product, or the negative Euclidean or Manhattan distance."""
        a, b = (np.atleast_2d(np.asarray(x, np.float32)) for x in (a, b))
        if self.card.similarity in ("euclidean", "manhattan"):
            order = 2 if self.card.similarity == "euclidean" else 1
            return -np.stack([np.linalg.norm(row - b, order, axis=1) for row in a])
        if self.card.similarity == "cosine":
            a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
        return a @ b.T

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that sentence-transformers, transformers and this class load as it is.

        Raises:
            UserError: the folder cannot be written, is a training workdir, or is the one that the model was loaded
                from, which a write that is cut off would leave without a model.
        """
        package.check_output(folder, [self.origin] if self.origin else [])
        package.write_package(folder, self.architecture, self.params, self.tokenizer, self.card)

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        if prompt_name is not None and prompt_name not in self.prompts:
            raise UserError(f"The model has no prompt named '{prompt_name}'{did_you_mean(prompt_name, self.prompts)}")
        return self.prompts.get(prompt_name or self.card.default_prompt_name, "") if prompt is None else prompt

    def _with_prompt(self, names: tuple[str, ...], options: dict) -> dict:
        if options.get("prompt") is not None or options.get("prompt_name") is not None:
            return options
        return options | {"prompt": next((self.prompts[name] for name in names if name in self.prompts), "")}
