"""`f2jax verify`: embeds the golden set of a package with every tool on this machine that can read the package.

Each tool is used as its users do: it loads the folder, tokenizes, pads, pools and normalizes by itself.
"""

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.checkpoints import package, settings
from f2jax.errors import UserError
from f2jax.release import golden
from f2jax.tables import text_table

BOUND, ROUNDED_BOUND = 0.999, 0.99  # lowest cosine to a golden vector that passes; the second for eight-bit weights
ROUNDED = (package.ONNX["int8"], package.GGUF["q8_0"])
DISTRIBUTIONS = {"optimum.onnxruntime": "optimum-onnx", "optimum.intel": "optimum-intel"}  # of modules with other names
TRANSFORMERS_JS = "@huggingface/transformers"  # the npm package
BATCH = 4  # small batches of texts with very different lengths verify the padding too


@dataclass(frozen=True)
class Result:
    """The result of a tool with one form of the model."""

    tool: str
    form: str  # a file that identifies the form
    worst: float | None = None  # lowest cosine to a golden vector; None: the tool did not run
    note: str = ""  # the tool's version, or why it did not run
    failed: bool = False  # whether it raised an error or a cosine is too low


@dataclass(frozen=True)
class Tool:
    name: str
    modules: tuple[str, ...]  # required modules; the version of the first one is reported
    forms: tuple[str, ...]  # files of a package that are tried one by one
    embed: Callable[[str, str, list[str]], np.ndarray]  # (folder, form, texts) -> [i, e]
    truncates: bool = True  # if not, it refuses texts beyond the context, or cuts off their end token
    reads_int8: bool = False  # whether it reads f2jax's int8 weights


def verify_package(folder: str | Path) -> Iterator[Result]:
    """Yields a result for each tool and form.

    Args:
        folder: a local package that `f2jax export` wrote.

    Raises:
        UserError: it does not exist, is remote, or has no golden set.
    """
    if files.is_remote(folder):
        raise UserError(f"{folder} is remote, but other tools read only local folders; copy it here first.")
    if not Path(folder).is_dir():
        raise UserError(f"There is no folder {folder}; give one that f2jax export wrote.")
    expected = golden.read_golden(folder)
    return (_run(tool, form, str(folder), expected) for tool in TOOLS for form in tool.forms)


def _run(tool: Tool, form: str, folder: str, expected: golden.GoldenVectors) -> Result:
    missing = [module for module in tool.modules if not _is_installed(module)]
    if not Path(folder, form).exists():
        return Result(tool.name, form, note="not in this package")
    if settings.stores_int8(folder) and not tool.reads_int8:
        return Result(tool.name, form, note="weights in int8, for f2jax alone")
    if missing:
        return Result(tool.name, form, note=f"not installed: {', '.join(missing)}")
    note = _version(tool.modules[0])
    if not tool.truncates:
        fits = _fits(folder, expected.texts)
        note += f"; without {fits.count(False)} longer than it reads" if not all(fits) else ""
        texts = [text for text, fit in zip(expected.texts, fits, strict=True) if fit]
        expected = golden.GoldenVectors(texts, expected.vectors[fits])
    try:
        vectors = np.asarray(tool.embed(folder, form, expected.texts), np.float32)
    except Exception as error:  # whatever another tool raises is its result
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Result(tool.name, form, note=f"{note}: {reason}", failed=True)
    if vectors.shape != expected.vectors.shape:
        note += f": vectors of shape {list(vectors.shape)}, not {list(expected.vectors.shape)}"
        return Result(tool.name, form, note=note, failed=True)
    cosine_i = np.einsum("ie,ie->i", vectors, expected.vectors) / np.linalg.norm(vectors, axis=1)
    worst = float(cosine_i.min())  # NaN fails too
    return Result(tool.name, form, worst, note, failed=not worst >= bound(form))


def bound(form: str) -> float:
    """Returns the lowest cosine that passes for a form."""
    return ROUNDED_BOUND if form in ROUNDED else BOUND


def _is_installed(module: str) -> bool:
    if module == TRANSFORMERS_JS:  # where a script here would find it
        here = Path.cwd()
        return bool(shutil.which("node")) and any(
            (folder / "node_modules" / module).is_dir() for folder in (here, *here.parents)
        )
    parent = module.rpartition(".")[0]
    return (not parent or _is_installed(parent)) and importlib.util.find_spec(module) is not None


def _version(module: str) -> str:
    if module == TRANSFORMERS_JS:
        return _node(f'import {{ env }} from "{module}"; process.stdout.write(env.version)')
    return importlib.metadata.version(DISTRIBUTIONS.get(module, module))


def results_table(results: list[Result]) -> str:
    """Returns the results as a text table."""
    rows = [("tool", "form", "worst cosine", "")]
    for result in results:
        worst = "-" if result.worst is None else f"{result.worst:.6f}"
        rows.append((result.tool, result.form, worst, f"FAILED {result.note}" if result.failed else result.note))
    return text_table(rows, left=4, head=False)


def _f2jax(folder: str, form: str, texts: list[str]) -> np.ndarray:
    from f2jax.inference.embedder import Embedder

    return Embedder.from_pretrained(folder).encode(texts, prompt="")


def _transformers(folder: str, form: str, texts: list[str]) -> np.ndarray:
    """Returns the last hidden state at each text's last token."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    batches = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(texts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            hidden_btd = model(**batch).last_hidden_state
        length = torch.arange(1, hidden_btd.shape[1] + 1)
        last = (batch["attention_mask"] * length).argmax(dim=1)  # for padding on either side
        batches.append(hidden_btd[torch.arange(len(last)), last].numpy())
    return np.concatenate(batches)


def _sentence_transformers(folder: str, form: str, texts: list[str]) -> np.ndarray:
    return _encode_with(folder, texts, backend="torch", model_kwargs={"dtype": "float32"})


def _sentence_transformers_onnx(folder: str, form: str, texts: list[str]) -> np.ndarray:
    return _encode_with(folder, texts, backend="onnx", model_kwargs={"file_name": form})


def _sentence_transformers_openvino(folder: str, form: str, texts: list[str]) -> np.ndarray:
    """Converts the model in memory, so the package does not change."""
    return _encode_with(folder, texts, backend="openvino")


def _encode_with(folder: str, texts: list[str], **options) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", **options)
    return model.encode(texts, prompt="", batch_size=BATCH, show_progress_bar=False)


def _optimum(folder: str, form: str, texts: list[str]) -> np.ndarray:
    """Returns the last hidden state at the end of each text; the tokenizer pads on the left."""
    import transformers
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    subfolder, _, name = form.rpartition("/")
    model = ORTModelForFeatureExtraction.from_pretrained(folder, subfolder=subfolder, file_name=name)
    batches = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(texts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
        batches.append(model(**batch).last_hidden_state[:, -1].numpy())
    return np.concatenate(batches)


def _fastembed(folder: str, form: str, texts: list[str]) -> np.ndarray:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = f"{folder}/{form}"  # unique, because fastembed refuses a name that it knows
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.LAST_TOKEN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=files.read_json(f"{folder}/config.json")["hidden_size"],
        model_file=form,
    )
    return np.stack(list(TextEmbedding(name, specific_model_path=folder).embed(texts, batch_size=BATCH)))


def _transformers_js(folder: str, form: str, texts: list[str]) -> np.ndarray:
    here = Path(folder).resolve()
    asked = {
        "parent": str(here.parent),
        "name": here.name,
        "dtype": "q8" if form in ROUNDED else "fp32",
        "batches": [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)],
    }
    return np.array(json.loads(_node(JAVASCRIPT, json.dumps(asked))), np.float32)


JAVASCRIPT = f"""
import {{ readFileSync }} from "node:fs";
import {{ env, pipeline }} from "{TRANSFORMERS_JS}";
const {{ parent, name, dtype, batches }} = JSON.parse(readFileSync(0));
env.allowRemoteModels = false;
env.localModelPath = parent;
const embed = await pipeline("feature-extraction", name, {{ dtype }});
const rows = [];
for (const texts of batches)
  rows.push(...(await embed(texts, {{ pooling: "last_token", normalize: true }})).tolist());
process.stdout.write(JSON.stringify(rows));
"""


def _node(script: str, content: str = "") -> str:
    """Runs a JavaScript module in the current folder and returns what it prints."""
    command = ["node", "--input-type=module", "-e", script]
    ended = subprocess.run(command, input=content, capture_output=True, text=True, check=False)
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if "Error" in line]
        raise RuntimeError(lines[0] if lines else ended.stderr)
    return ended.stdout


def _tokenizer(folder: str):
    """Returns the package's tokenizer, from the `tokenizers` library, and the maximum tokens of a text."""
    from tokenizers import Tokenizer

    limit = files.read_json(f"{folder}/tokenizer_config.json")["model_max_length"]
    return Tokenizer.from_file(f"{folder}/tokenizer.json"), limit


def _fits(folder: str, texts: list[str]) -> list[bool]:
    tokenizer, limit = _tokenizer(folder)
    return [len(text.ids) <= limit for text in tokenizer.encode_batch(texts)]


def _onnx_runtime(folder: str, form: str, texts: list[str]) -> np.ndarray:
    import onnxruntime

    tokenizer, limit = _tokenizer(folder)
    tokenizer.enable_truncation(limit)
    tokenizer.enable_padding(pad_id=files.read_json(f"{folder}/config.json")["pad_token_id"])
    session = onnxruntime.InferenceSession(f"{folder}/{form}", providers=["CPUExecutionProvider"])
    batches = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer.encode_batch(texts[start : start + BATCH])
        inputs = {
            "input_ids": np.array([text.ids for text in batch], np.int64),
            "attention_mask": np.array([text.attention_mask for text in batch], np.int64),
        }
        batches += session.run(["sentence_embedding"], inputs)
    return np.concatenate(batches)


def _llama_cpp(folder: str, form: str, texts: list[str]) -> np.ndarray:
    """Embeds with llama.cpp's server in this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = f"{folder}/{form}"
    params.embedding, params.warmup, params.verbosity = True, False, -1
    params.n_ctx = params.n_batch = params.n_ubatch = _tokenizer(folder)[1]  # a text must fit into one batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # more would only contend
    answer = xllamacpp.Server(params).handle_embeddings({"input": texts, "model": form})
    if "data" not in answer:
        raise RuntimeError(answer["error"]["message"])
    return np.array([entry["embedding"] for entry in sorted(answer["data"], key=lambda entry: entry["index"])])


ST = ("sentence_transformers", "torch")
ONNX_FORMS = tuple(package.ONNX.values())
TOOLS = (
    Tool("f2jax", ("f2jax",), ("config.json",), _f2jax, reads_int8=True),  # always there
    Tool("transformers", ("transformers", "torch"), ("config.json",), _transformers),
    Tool("sentence-transformers", ST, ("modules.json",), _sentence_transformers),
    Tool("sentence-transformers, onnx", ("optimum.onnxruntime", *ST), ONNX_FORMS, _sentence_transformers_onnx),
    Tool("sentence-transformers, openvino", ("optimum.intel", *ST), ("modules.json",), _sentence_transformers_openvino),
    Tool("optimum", ("optimum.onnxruntime", "torch"), ONNX_FORMS, _optimum),
    Tool("fastembed", ("fastembed",), ONNX_FORMS, _fastembed),
    Tool("Transformers.js", (TRANSFORMERS_JS,), ONNX_FORMS, _transformers_js, truncates=False),
    Tool("ONNX Runtime", ("onnxruntime",), ONNX_FORMS, _onnx_runtime),
    Tool("llama.cpp", ("xllamacpp",), tuple(package.GGUF.values()), _llama_cpp, truncates=False),
)
