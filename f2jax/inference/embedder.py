"""`Embedder` turns texts into vectors. Its methods and arguments are named as in sentence-transformers."""

import copy
import hashlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

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
from f2jax.inference.arguments import check_dims, check_length, check_texts, named_prompt, to_comparable, to_tensors
from f2jax.inference.encode import NotFiniteError, check_batch_size, encode_all_tokens, encode_texts
from f2jax.inference.fingerprint import weights_hash
from f2jax.inference.program import make_embed
from f2jax.inference.quantize import check_precision, quantize
from f2jax.inference.truncation import Truncation
from f2jax.inference.vectors import scale_to_unit
from f2jax.inference.weights import Weights
from f2jax.model import nested
from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import param_shardings
from f2jax.parallel.threads import one_ahead

UNLIMITED = 2**31 - 1  # tokens
EXCERPT = 60  # characters of a text in an error message
OUTPUTS = ("sentence_embedding", "token_embeddings")


class Embedder:
    """An embedding model with its weights, tokenizer and prompts.

    >>> model = Embedder.from_pretrained("runs/nano")
    >>> model.similarity(model.encode_query(["Kenia"]), model.encode_document(["Kenya", "Keynes"]))
    """

    def __new__(cls, *args, **options):
        if args and isinstance(args[0], str | Path):  # as SentenceTransformer loads a model
            raise UserError(f"Load a model with Embedder.from_pretrained('{args[0]}').")
        return super().__new__(cls)

    def __init__(
        self,
        architecture: Qwen3Config,
        params,
        tokenizer: Tokenizer,
        settings: package.ModelSettings,
        dtype: str = "float32",
        mesh: Mesh | None = None,
        origin: str = "",
        truncate_dim: int | None = None,
    ):
        """Makes a model of parts that are loaded; `from_pretrained` loads one.

        Args:
            mesh: devices that hold `params` and share the rows of a batch; None: one device.
            origin: folder that the model was loaded from, where `save_pretrained` refuses to write.
            truncate_dim: default number of leading dimensions that `encode` keeps; None: all.

        Raises:
            UserError: the tokenizer has more tokens than the model, the dtype is unknown, or `truncate_dim` is not in
                1 … dim.
        """
        check_dtype(dtype)
        tokenizer.check_vocab(architecture.vocab_size)
        self.architecture, self.tokenizer, self.settings = architecture, tokenizer, settings
        self.model = Qwen3(architecture, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
        self.mesh, self.origin = mesh, origin
        self.truncation = Truncation()  # of all texts encoded so far
        self.leads = False  # whether the other processes of the job encode their share of this one's texts
        self.truncate_dim = self._dims(truncate_dim) if truncate_dim is not None else None
        self._embed = make_embed(self.model, mesh)
        self._weights = Weights(params, self.model.dtype, self.mesh)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        dtype: str = "float32",
        truncate_layers: int | None = None,
        table_rank: int | None = None,
        fsdp: int = 1,
        *,
        revision: str | None = None,
        max_length: int | None = None,
        truncate_dim: int | None = None,
        matryoshka_dims: Sequence[int] | None = None,
    ) -> "Embedder":
        """Loads a model onto all devices of this host, or of all hosts if this one has fewer than `fsdp`.

        Args:
            name: a folder, a hub id, a gs:// path, a training workdir (its newest readable checkpoint, RUN@STEP or
                RUN@best), or the built-in `mini`.
            truncate_layers: keep only this many layers of a model that was trained with `loss.exits`.
            table_rank: keep only this many columns of a factorized token table.
            fsdp: number of devices that share one copy of the weights; 1: each device has its own copy.
            revision: branch, tag or commit of a hub id.
            max_length: maximum tokens of a text, including the end token; default: the model's own limit.
            truncate_dim: default number of leading dimensions that `encode` keeps.
            matryoshka_dims: dimensions that the model was trained to be truncated to, if its folder does not state
                them.

        Raises:
            UserError: there is no such model, it cannot be read, the number of devices is not a multiple of `fsdp`, or
                a number is out of range.
        """
        check_dtype(dtype)
        found = workdir.find_model(name, revision)
        path = found.path
        devices = jax.local_devices() if fsdp <= jax.local_device_count() else jax.devices()
        mesh = make_mesh(fsdp=fsdp, devices=devices) if len(devices) > 1 or fsdp != 1 else None
        shardings = mesh and (lambda architecture: param_shardings(abstract_params(architecture), mesh))
        weights = workdir.load_weights(found, jnp.dtype(dtype), shardings)
        architecture, params = nested.cut_nested(*weights, layers=truncate_layers, rank=table_rank)
        settings = package.read_settings(path, architecture)
        if max_length is not None:
            settings = replace(settings, max_length=check_length(max_length, architecture))
        if matryoshka_dims is not None:
            settings = replace(settings, matryoshka_dims=check_dims(matryoshka_dims, architecture.width))
        origin = path if files.is_remote(path) else str(Path(path).resolve())
        tokenizer = load_tokenizer(tokenizer_folder(path))
        return cls(architecture, params, tokenizer, settings, dtype, mesh, origin, truncate_dim)

    def with_weights(self, params) -> "Embedder":
        """Returns this model with other weights of the same shapes. Both share the compiled programs."""
        other = copy.copy(self)
        other.__dict__.pop("fingerprint", None)  # cached
        other._weights, other.truncation = Weights(params, self.model.dtype, self.mesh), Truncation()
        return other

    @property
    def params(self):
        """The tree of the weights; after encoding on a CPU, a copy."""
        return self._weights.tree

    @property
    def dim(self) -> int:
        """Number of dimensions of an embedding before truncation."""
        return self.architecture.width

    def get_embedding_dimension(self) -> int:
        """Returns the number of dimensions that `encode` returns by default."""
        return self.truncate_dim or self.dim

    get_sentence_embedding_dimension = get_embedding_dimension  # the name in older versions of sentence-transformers

    @property
    def spans_hosts(self) -> bool:
        """Whether the weights are spread over several processes, which then encode the same texts together."""
        return self.mesh is not None and len({device.process_index for device in self.mesh.devices.flat}) > 1

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of a text, including the end token; longer texts are truncated.

        Raises:
            UserError: it is set to more positions than the model has.
        """
        return self.settings.max_length

    @max_length.setter
    def max_length(self, tokens: int) -> None:
        self.settings = replace(self.settings, max_length=check_length(tokens, self.architecture))
        self.__dict__.pop("fingerprint", None)

    max_seq_length = max_length  # the name in sentence-transformers

    @property
    def matryoshka_dims(self) -> tuple[int, ...]:
        """Dimensions that the model was trained to be truncated to, in descending order."""
        return self.settings.matryoshka_dims

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompts by name: strings that are prepended to a text."""
        return self.settings.prompts

    @cached_property
    def fingerprint(self) -> str:
        """A hash of architecture, tokenizer, settings, dtype and all weights.

        It is the same for a workdir and for the package exported from it.
        """
        parts = (self.architecture, self.tokenizer.fingerprint(), self.settings, self.model.dtype)
        return hashlib.sha256(f"{parts!r} {weights_hash(self.params)}".encode()).hexdigest()

    @property
    def vectors_key(self) -> str:
        """The key under which vectors of `encode` are stored: it identifies the model and its default truncation."""
        return self.fingerprint if self.truncate_dim is None else f"{self.truncate_dim}-{self.fingerprint}"

    @cached_property
    def _embed_all(self) -> Callable:
        return make_embed(self.model, self.mesh, all_tokens=True)

    def encode(
        self,
        texts: str | Iterable[str] | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int = 1_024,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        output_value: str = "sentence_embedding",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
        sentences: str | Iterable[str] | None = None,
        inputs: str | Iterable[str] | None = None,
    ) -> Any:
        """Returns embeddings, float32 [i, dim], in the order of `texts`; for a single string, [dim].

        They are truncated first, then normalized, then quantized. This differs from sentence-transformers in two ways:
        its default is `normalize_embeddings=False`, and if the model has a Normalize module, as packages of f2jax do,
        it normalizes before it truncates. With `normalize_embeddings=True`, both return the same vectors.

        Args:
            prompt: string to prepend to every text; default: the model's default prompt, if it has one.
            prompt_name: a name in `prompts`, or query or document, as an alternative to `prompt`.
            batch_size: maximum number of texts in a batch on each device.
            truncate_dim: number of leading dimensions to keep; default: as set when loading, or all.
            max_length: maximum tokens of a text, including the end token; default: that of the model.
            precision: float32, or int8, uint8, binary or ubinary in the layouts of sentence-transformers.
            output_value: with token_embeddings, returns a list with the final hidden states [t, dim] of each text,
                including prompt and end token, not normalized.
            convert_to_numpy: if False, returns a list with a PyTorch tensor for each text.
            convert_to_tensor: returns PyTorch tensors.
            show_progress_bar: default: for 1,000 texts or more.
            sentences, inputs: alternative names for `texts`, as in versions of sentence-transformers.

        Raises:
            UserError: `texts` is not a string or a sequence of strings, a number is out of range, a name is unknown, a
                vector is not finite, or tensors are requested and PyTorch is not installed.
        """
        given = [value for value in (texts, sentences, inputs) if value is not None]
        if len(given) != 1:
            raise UserError("Pass the texts to encode once, as a string or a list of strings.")
        dim = self._dims(truncate_dim)
        check_batch_size(batch_size)
        check_precision(precision)
        if output_value not in OUTPUTS:
            raise UserError(f"There is no output_value '{output_value}'{did_you_mean(str(output_value), OUTPUTS)}")
        all_tokens = output_value == "token_embeddings"
        if all_tokens and (precision != "float32" or truncate_dim is not None):
            raise UserError("Token embeddings cannot be truncated or quantized; leave out precision and truncate_dim.")
        as_tensors = convert_to_tensor or not convert_to_numpy
        if as_tensors and not importlib.util.find_spec("torch"):
            raise UserError("Tensors need PyTorch; install torch, or leave out convert_to_tensor and convert_to_numpy.")
        prompt = self.choose_prompt(prompt, prompt_name)
        items = check_texts(given[0])
        prompted = [prompt + text for text in items]
        show = len(items) >= 1_000 if show_progress_bar is None else show_progress_bar
        progress = tqdm(total=len(items), unit="text", unit_scale=True, disable=not show, dynamic_ncols=True)
        with progress as bar, _named(items):
            if all_tokens:
                found: Any = self._all_states(prompted, max_length, batch_size, bar.update)
            elif self.leads:
                limit = self.max_length if max_length is None else max_length  # which this process may have set
                found = multihost.encode_on_all(self, prompted, limit, batch_size, bar.update)[:, :dim]
            else:
                found = self.encode_whole(prompted, max_length, batch_size, bar.update)[:, :dim]
        if not all_tokens:
            found = quantize(scale_to_unit(found) if normalize_embeddings else found, precision)
        if as_tensors:
            found = to_tensors(found, stacked=convert_to_tensor and not all_tokens)
        return found[0] if isinstance(given[0], str) else found

    def choose_prompt(self, prompt: str | None = None, prompt_name: str | None = None) -> str:
        """Returns the string to prepend to a text: `prompt`, the one named `prompt_name`, or the default prompt.

        Raises:
            UserError: there is no prompt of this name.
        """
        default = self.prompts.get(self.settings.default_prompt_name or "", "")
        named = default if prompt_name is None else named_prompt(self.prompts, prompt_name)
        return named if prompt is None else prompt

    def encode_each(
        self,
        pieces: Iterable[list[str]],
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int = 1_024,
        truncate_dim: int | None = None,
        max_length: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields the embeddings of each list of texts; the next list is tokenized while the devices encode this one.

        Raises:
            UserError: as for `encode`; options are checked before anything is read.
        """
        dim, prompt = self._dims(truncate_dim), self.choose_prompt(prompt, prompt_name)
        check_batch_size(batch_size)
        ready = ((texts, self._tokenize([prompt + text for text in texts], max_length)) for texts in pieces)

        def vectors() -> Iterator[np.ndarray]:
            for texts, (sequences, cut) in one_ahead(ready):
                with _named(texts):
                    found = self.encode_tokens(sequences, batch_size)
                self.truncation.add(cut)
                yield scale_to_unit(found[:, :dim])

        return vectors()

    def encode_whole(
        self,
        texts: list[str],
        max_length: int | None = None,
        batch_size: int = 1_024,
        progress: Callable[[int], None] = lambda _: None,
    ) -> np.ndarray:
        """Returns embeddings, float32 [i, dim], that are not normalized, of texts without a prompt.

        Raises:
            NotFiniteError: a vector is not finite.
        """
        sequences, cut = self._tokenize(texts, max_length)
        self.truncation.add(cut)
        return self.encode_tokens(sequences, batch_size, progress)

    def encode_tokens(
        self, sequences: Sequence[np.ndarray], batch_size: int = 1_024, progress: Callable[[int], None] = lambda _: None
    ) -> np.ndarray:
        """Returns embeddings, float32 [i, dim], that are not normalized, of int32 token sequences with the end token.

        Args:
            progress: called after each batch with the number of its texts.

        Raises:
            NotFiniteError: a vector is not finite.
        """
        options = batch_size, progress, self.mesh
        return encode_texts(self._embed, self._weights.to_encode, sequences, self.dim, self.tokenizer.pad_id, *options)

    def encode_query(self, texts: str | Iterable[str] | None = None, **options) -> Any:
        """Encodes with the model's prompt `query`, if it has one; `prompt` and `prompt_name` override it."""
        return self.encode(texts, **self._with_prompt("query", options))

    def encode_document(self, texts: str | Iterable[str] | None = None, **options) -> Any:
        """Encodes with the model's prompt `document`, if it has one; `prompt` and `prompt_name` override it.

        As in sentence-transformers, a prompt named `passage` or `corpus` is used only if it is named.
        """
        return self.encode(texts, **self._with_prompt("document", options))

    def embed_query(self, text: str) -> list[float]:
        """Returns the vector of a query as a list; part of LangChain's `Embeddings` interface."""
        return self.encode_query(text, show_progress_bar=False).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Returns the vectors of documents as lists; part of LangChain's `Embeddings` interface."""
        return self.encode_document(texts).tolist()

    def tokenize(self, texts: str | Iterable[str]) -> dict[str, np.ndarray]:
        """Returns `input_ids` and `attention_mask`, int64 [i, t], truncated to `max_length` and padded on the left."""
        sequences, _ = self._tokenize(check_texts(texts), None)
        longest = max(map(len, sequences), default=0)
        ids_it = np.full((len(sequences), longest), self.tokenizer.pad_id, np.int64)
        mask_it = np.zeros_like(ids_it)
        for i, ids in enumerate(sequences):
            ids_it[i, longest - len(ids) :], mask_it[i, longest - len(ids) :] = ids, 1
        return {"input_ids": ids_it, "attention_mask": mask_it}

    def similarity(self, a, b) -> np.ndarray:
        """Returns similarities [q, c] of embeddings [q, dim] and [c, dim].

        The model's settings choose the function: cosine, dot product, or negative Euclidean or Manhattan distance.

        Raises:
            UserError: the embeddings are quantized.
        """
        a, b, order = to_comparable(a, b, self.settings.similarity)
        if order:
            return -np.stack([np.linalg.norm(row - b, order, axis=1) for row in a])
        return a @ b.T

    def similarity_pairwise(self, a, b) -> np.ndarray:
        """Returns the similarity of each pair, float32 [i], for two arrays of embeddings [i, dim].

        Raises:
            UserError: the shapes differ, or the embeddings are quantized.
        """
        a, b, order = to_comparable(a, b, self.settings.similarity)
        if a.shape != b.shape:
            raise UserError(
                f"Pairwise similarity needs two arrays of the same shape, not {list(a.shape)} and {list(b.shape)}."
            )
        return -np.linalg.norm(a - b, order, axis=1) if order else np.einsum("ie,ie->i", a, b)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that sentence-transformers, transformers and this class can load.

        Raises:
            UserError: the folder cannot be written, is a training workdir, or is the one that the model was loaded
                from, because an interrupted write would destroy the model.
        """
        package.check_output(folder, [self.origin] if self.origin else [])
        about = package.read_earlier_card(self.origin)
        package.write_package(folder, self.architecture, self.params, self.tokenizer, self.settings, about)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        exist_ok: bool = False,
        commit_message: str = "Add the model, written by f2jax",
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads the model, as `save_pretrained` writes it, to the Hugging Face hub and returns the commit's URL.

        Args:
            token: access token with write permission; default: the one of `hf auth login`.
            private: whether to make a new repository private.
            exist_ok: whether the repository may already exist, as it must with `create_pr`.
            revision: branch to write to.
            create_pr: open a pull request instead of committing.

        Raises:
            Restart: the hub failed temporarily.
            UserError: the repository already exists, or the hub refuses the upload.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            with files.clear_hub_errors(f"The model {repo_id}", "written to"):
                api.create_repo(repo_id, private=private, exist_ok=exist_ok or create_pr)
                commit = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=revision,
                    create_pr=create_pr,
                )
        return commit.commit_url

    def _all_states(
        self, texts: list[str], max_length: int | None, batch_size: int, progress: Callable[[int], None]
    ) -> list[np.ndarray]:
        if self.leads:
            raise UserError("Token embeddings are computed by a single process; run this on one host.")
        sequences, cut = self._tokenize(texts, max_length)
        self.truncation.add(cut)
        options = self.tokenizer.pad_id, batch_size, progress, self.mesh
        return encode_all_tokens(self._embed_all, self._weights.to_encode, sequences, *options)

    def _tokenize(self, texts: list[str], max_length: int | None) -> tuple[list[np.ndarray], Truncation]:
        """Returns the token ids of the texts, truncated to `max_length` with the end token, and how much was cut."""
        limit = self.max_length if max_length is None else check_length(max_length, self.architecture)
        sequences = self.tokenizer.encode(texts, UNLIMITED)
        lost = [len(ids) - limit for ids in sequences if len(ids) > limit]
        kept = [ids if len(ids) <= limit else np.append(ids[: limit - 1], ids[-1:]) for ids in sequences]
        return kept, Truncation(len(texts), sum(map(len, sequences)), len(lost), sum(lost))

    def _dims(self, truncate_dim: int | None) -> int:
        """Returns the number of dimensions to keep; raises UserError if the model has fewer."""
        if truncate_dim is None:
            return self.get_embedding_dimension()
        if not 1 <= truncate_dim <= self.dim:
            raise UserError(f"truncate_dim={truncate_dim} is out of range; this model has 1 to {self.dim} dimensions.")
        return truncate_dim

    def _with_prompt(self, name: str, options: dict) -> dict:
        if options.get("prompt") is not None or options.get("prompt_name") is not None:
            return options
        return options | {"prompt": self.prompts.get(name, "")}


@contextmanager
def _named(texts: list[str]) -> Iterator[None]:
    """Adds the beginning of the text to the error for a vector that is not finite."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(error.number, f"the text '{texts[error.number][:EXCERPT]}'") from error
