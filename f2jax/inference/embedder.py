"""`Embedder`: texts in, vectors out. Argument names are those of sentence-transformers."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from f2jax import files
from f2jax.checkpoints import package, workdir
from f2jax.checkpoints.workdir import check_dtype, tokenizer_folder
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.errors import UserError, did_you_mean
from f2jax.inference import multihost
from f2jax.inference.encode import NotFiniteError, encode_texts, make_embed
from f2jax.inference.fingerprint import weights_hash
from f2jax.inference.quantize import check_precision, quantize
from f2jax.inference.truncation import Truncation
from f2jax.inference.vectors import scale_to_unit
from f2jax.model import nested
from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import param_shardings

UNLIMITED = 2**31 - 1  # tokens
EXCERPT = 60  # characters of a text in an error message


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
            mesh: devices that hold `params` and share the rows of a batch; None: one device.
            origin: the folder that the model was loaded from; `save_pretrained` does not write there.

        Raises:
            UserError: tokenizer and architecture do not fit each other, or the dtype is unknown.
        """
        check_dtype(dtype)
        tokenizer.check_vocab(architecture.vocab_size)
        self.architecture, self.params, self.tokenizer, self.card = architecture, params, tokenizer, card
        self.model = Qwen3(architecture, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
        self.mesh, self.origin = mesh, origin
        self.truncation = Truncation()  # of all texts encoded so far
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
        """Loads a folder, a hub id, a gs:// path or a workdir (its newest readable checkpoint) onto all devices.

        Args:
            truncate_layers: number of first layers to keep, for a model that was trained with `loss.exits`.
            table_rank: number of columns to keep of a factorized token table.
            fsdp: number of devices that share one copy of the weights; 1: each has its own.

        Raises:
            UserError: there is no such model, it cannot be read, or the devices are no multiple of `fsdp`.
        """
        check_dtype(dtype)
        path = files.resolve_model(name)
        mesh = make_mesh(fsdp=fsdp) if fsdp != 1 or jax.device_count() > 1 else None
        shardings = mesh and (lambda architecture: param_shardings(abstract_params(architecture), mesh))
        weights = workdir.load_weights(path, jnp.dtype(dtype), shardings)
        architecture, params = nested.cut_nested(*weights, layers=truncate_layers, rank=table_rank)
        card = package.read_settings(path, architecture)
        origin = path if files.is_remote(path) else str(Path(path).resolve())
        return cls(architecture, params, load_tokenizer(tokenizer_folder(path)), card, dtype, mesh, origin)

    @property
    def dim(self) -> int:
        """Number of dimensions of an embedding before truncation."""
        return self.architecture.width

    @property
    def max_length(self) -> int:
        """Number of tokens that are read of a text, end token included; longer texts are cut."""
        return self.card.max_length

    @property
    def matryoshka_dims(self) -> tuple[int, ...]:
        """Numbers of dimensions that the model was trained to be truncated to, largest first."""
        return self.card.matryoshka_dims

    @property
    def prompts(self) -> dict[str, str]:
        """Strings to prepend to a text, by name."""
        return self.card.prompts

    @cached_property
    def fingerprint(self) -> str:
        """A hash of architecture, tokenizer, settings, dtype and all bytes of the weights.

        A workdir and the package exported from it have the same one. If several processes share the weights, all of
        them ask for it together the first time.
        """
        parts = (self.architecture, self.tokenizer.fingerprint(), self.card, self.model.dtype)
        return hashlib.sha256(f"{parts!r} {weights_hash(self.params)}".encode()).hexdigest()

    @cached_property
    def _weights(self):
        """`params`; on a CPU with float32 layers, since XLA would convert them at each call."""
        if jax.default_backend() != "cpu":
            return self.params
        wide = jax.tree.map(lambda x: x if x.dtype == jnp.float32 else x.astype(jnp.float32), self.params["layers"])
        return self.params | {"layers": wide}

    def encode(
        self,
        texts: str | Iterable[str] | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int = 1_024,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        show_progress_bar: bool | None = None,
        sentences: str | Iterable[str] | None = None,
        inputs: str | Iterable[str] | None = None,
    ) -> np.ndarray:
        """Returns embeddings [i, dim] in the order of `texts`, or [dim] for a single string.

        They are truncated first, then normalized, then quantized. sentence-transformers differs in two ways. Its
        default is `normalize_embeddings=False`. And if the model has a Normalize module, as packages of f2jax have, it
        normalizes first, so that False gives a part of a unit vector there and of a raw one here; True gives the same.

        Args:
            prompt: prepended to every text as it is; default: the model's default prompt, if it has one.
            prompt_name: a name in `prompts`, as an alternative to `prompt`.
            batch_size: maximum number of texts in a device batch.
            truncate_dim: number of first dimensions to keep.
            precision: float32, or int8, uint8, binary, ubinary in the layouts of sentence-transformers.
            show_progress_bar: default: for a thousand texts and more.
            sentences, inputs: other names of `texts`, as in versions of sentence-transformers.

        Raises:
            UserError: `texts` is not a string or a sequence of strings, `truncate_dim` is not in 1 … dim, a name is
                unknown, or a vector is not finite.
        """
        given = [value for value in (texts, sentences, inputs) if value is not None]
        if len(given) != 1:
            raise UserError("Give the texts to encode: a string or a list of strings, once.")
        dim = self.dim if truncate_dim is None else truncate_dim
        if not 1 <= dim <= self.dim:
            raise UserError(f"truncate_dim={dim} is out of range; this model has 1 to {self.dim} dimensions.")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} should be at least 1.")
        check_precision(precision)
        prompt = self._prompt(prompt, prompt_name)
        items = check_texts(given[0])

        sequences = self._tokenize([prompt + text for text in items])
        show = len(items) >= 1_000 if show_progress_bar is None else show_progress_bar
        with tqdm(total=len(items), unit="text", unit_scale=True, disable=not show, dynamic_ncols=True) as bar:
            try:
                x_ie = self.encode_tokens(sequences, batch_size, bar.update)[:, :dim]
            except NotFiniteError as error:
                excerpt = items[error.number][:EXCERPT]
                raise NotFiniteError(error.number, f"the text '{excerpt}'") from error
        if normalize_embeddings:
            x_ie = scale_to_unit(x_ie)
        vectors = quantize(x_ie, precision)
        return vectors[0] if isinstance(given[0], str) else vectors

    def encode_tokens(
        self, sequences: Sequence[np.ndarray], batch_size: int = 1_024, progress: Callable[[int], None] = lambda _: None
    ) -> np.ndarray:
        """Returns raw states, float32 [i, dim], of int32 token sequences that end with the end token.

        Args:
            progress: is called after each batch with the number of its texts.

        Raises:
            NotFiniteError: a vector is not finite.
        """
        if self.mesh:
            multihost.call_on_all(sequences, batch_size)
        options = batch_size, progress, self.mesh
        return encode_texts(self._embed, self._weights, sequences, self.dim, self.tokenizer.pad_id, *options)

    def encode_query(self, texts: str | Iterable[str] | None = None, **options) -> np.ndarray:
        """`encode` with the prompt named `query`, or none; `prompt` and `prompt_name` override it."""
        return self.encode(texts, **self._with_prompt("query", options))

    def encode_document(self, texts: str | Iterable[str] | None = None, **options) -> np.ndarray:
        """`encode` with the prompt named `document`, or none; `prompt` and `prompt_name` override it.

        As in sentence-transformers, a prompt named `passage` or `corpus` is used only by that name.
        """
        return self.encode(texts, **self._with_prompt("document", options))

    def similarity(self, a, b) -> np.ndarray:
        """Returns similarities [q, c] of embeddings [q, dim] and [c, dim], by the function of the model's settings.

        This is the cosine, the dot product, or the negative Euclidean or Manhattan distance.
        """
        a, b = (np.atleast_2d(np.asarray(x, np.float32)) for x in (a, b))
        if self.card.similarity in ("euclidean", "manhattan"):
            order = 2 if self.card.similarity == "euclidean" else 1
            return -np.stack([np.linalg.norm(row - b, order, axis=1) for row in a])
        if self.card.similarity == "cosine":
            a, b = scale_to_unit(a), scale_to_unit(b)
        return a @ b.T

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that sentence-transformers, transformers and this class load as it is.

        Raises:
            UserError: the folder cannot be written, is a training workdir, or is the one that the model was loaded
                from, which an interrupted write would destroy.
        """
        package.check_output(folder, [self.origin] if self.origin else [])
        package.write_package(folder, self.architecture, self.params, self.tokenizer, self.card)

    def _tokenize(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of the texts, cut to `max_length` with their end token kept; counts what is cut."""
        sequences = self.tokenizer.encode(texts, UNLIMITED)
        long = [i for i, ids in enumerate(sequences) if len(ids) > self.max_length]
        lost = sum(len(sequences[i]) - self.max_length for i in long)
        self.truncation.add(len(texts), sum(map(len, sequences)), len(long), lost)
        for i in long:
            sequences[i] = np.append(sequences[i][: self.max_length - 1], sequences[i][-1:])
        return sequences

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        if prompt_name is not None and prompt_name not in self.prompts:
            raise UserError(f"The model has no prompt named '{prompt_name}'{did_you_mean(prompt_name, self.prompts)}")
        return self.prompts.get(prompt_name or self.card.default_prompt_name or "", "") if prompt is None else prompt

    def _with_prompt(self, name: str, options: dict) -> dict:
        if options.get("prompt") is not None or options.get("prompt_name") is not None:
            return options
        return options | {"prompt": self.prompts.get(name, "")}


def check_texts(texts) -> list[str]:
    """Returns the strings of a string or an ordered collection of strings.

    Raises:
        UserError: it is something else, such as a dict, a set, a table, or a list with an item that is no string.
    """
    if isinstance(texts, str):
        return [texts]
    try:
        items = list(texts)
    except TypeError:
        items = None
    if items is None or isinstance(texts, (Mapping, Set, bytes)) or hasattr(texts, "columns"):  # a table gives columns
        raise UserError(f"The texts are of type {type(texts).__name__}; give a string or a list of strings.")
    invalid = next((i for i, text in enumerate(items) if not isinstance(text, str)), None)
    if invalid is not None:
        raise UserError(f"Text number {invalid} is of type {type(items[invalid]).__name__}; give strings.")
    return items
