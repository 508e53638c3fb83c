"""One export in all forms, each verified by `f2jax verify` against its golden vectors in the tool that reads it."""

import pytest

from f2jax import Embedder
from f2jax.checkpoints.model_card import RunHistory
from f2jax.checkpoints.package import ModelSettings
from f2jax.cli import main
from f2jax.data.tokenizer import HFTokenizer, load_tokenizer
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.release import export, gguf, golden, verify
from tests import tiny_model

for module in ("torch", "transformers", "sentence_transformers", "onnxruntime", "gguf", "xllamacpp"):
    pytest.importorskip(module)
pytestmark = pytest.mark.parity

ROUNDED = ("onnx/model_quantized.onnx", "gguf/model-q8_0.gguf")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Embedder:
    """A SentencePiece tokenizer of f2jax's own."""
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


def test_every_tool_gives_the_golden_vectors_of_every_form(trained, tmp_path, capsys):
    export.export_package(trained, tmp_path, export.FORMATS)
    results = [one for one in verify.verify_package(tmp_path) if not one.note.startswith("not installed")]
    needed = {"f2jax", "transformers", "sentence-transformers", "ONNX Runtime", "llama.cpp"}
    assert {one.tool for one in results} >= needed
    assert all(one.worst is not None for one in results), "every tool ran"
    assert min(one.worst for one in results if one.form not in ROUNDED) > 0.99999
    assert min(one.worst for one in results if one.form in ROUNDED) > 0.99
    longer = [text for text in golden.read_golden(tmp_path).texts if reads(trained, text) > trained.max_length]
    assert len(longer) == 3, "the long one, and two whose letters are read as bytes"
    assert all(f"without {len(longer)} longer than it reads" in one.note for one in results if one.tool == "llama.cpp")


def reads(embedder: Embedder, text: str) -> int:
    """Returns the tokens of a whole text, end token included."""
    return len(embedder.tokenizer.encode([text], 10**6)[0])


def test_llama_cpp_reads_the_tokenizer_of_qwen(shared_data, tmp_path):
    """Byte-level pairs, with more rows in the token table than tokens."""
    architecture = size("tiny", vocab_size=151_936)
    tokenizer, card = (
        load_tokenizer(shared_data / "qwen-tokenizer"),
        ModelSettings(1_024, dict(tiny_model.PROMPTS), (64,)),
    )
    export.export_package(
        Embedder(architecture, tiny_model.random_params(architecture), tokenizer, card), tmp_path, ["gguf"]
    )
    (one,) = (one for one in verify.verify_package(tmp_path) if one.form == "gguf/model.gguf")
    assert one.worst > 0.99999 and "longer" not in one.note


def test_bfloat16_weights_stay_so_in_gguf(trained, tmp_path):
    from gguf import GGUFReader

    trained.save_pretrained(tmp_path / "whole")
    half = Embedder.from_pretrained(tmp_path / "whole", "bfloat16")
    details = {"license_name": "Ours", "license_link": "https://example.org"}
    export.export_package(
        half, tmp_path / "half", ["gguf", "onnx"], RunHistory(license="other", license_details=details)
    )
    reader = GGUFReader(tmp_path / "half/gguf/model.gguf")
    said = {name: reader.fields[f"general.{name}"].contents() for name in ("name", "file_type", "license")}
    said |= {f"license_{name}": reader.fields[f"general.license.{name}"].contents() for name in ("name", "link")}
    assert said == {"name": "half", "file_type": 32, "license": "other", **details}  # 32: MOSTLY_BF16
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.1.attn_q.weight"] == types["token_embd.weight"] == "BF16"
    assert types["blk.0.attn_q_norm.weight"] == "F32"
    found = {one.tool: one.worst for one in verify.verify_package(tmp_path / "half") if one.form == "onnx/model.onnx"}
    assert found["ONNX Runtime"] > 0.99999


def test_other_tokenizers_have_no_form_in_gguf(trained, tmp_path, capsys):
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"<|im_end|>": 0, "<|endoftext|>": 1, "red": 2}, unk_token="red"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = HFTokenizer(backend.to_str(), "words")
    with pytest.raises(UserError, match="cannot be written to GGUF"):
        gguf.vocabulary(tokenizer, 512)
    Embedder(trained.architecture, trained.params, tokenizer, trained.settings).save_pretrained(tmp_path / "words")
    options = ["--output", str(tmp_path / "out"), "--format", "gguf"]
    assert main(["export", "--model", str(tmp_path / "words"), *options]) == 1
    assert "cannot be written to GGUF" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_shape_that_q8_0_cannot_cut_is_refused(trained, tmp_path):
    architecture = size("tiny", width=72)
    embedder = Embedder(architecture, tiny_model.random_params(architecture), trained.tokenizer, trained.settings)
    with pytest.raises(UserError, match="multiples of 32, not width 72"):
        export.export_package(embedder, tmp_path / "out", ["gguf-q8"])
    assert not (tmp_path / "out").exists()


def test_llama_cpp_refuses_a_text_above_the_context(trained, tmp_path):
    """Rather than embed it without its end token, or beyond what the model was trained on."""
    export.export_package(trained, tmp_path, ["gguf"])
    long = [golden.TEXTS[-1]]
    assert len(trained.tokenizer.encode(long, 10_000)[0]) > trained.max_length
    with pytest.raises(RuntimeError, match="exceeds the available context size"):
        verify._llama_cpp(str(tmp_path), "gguf/model.gguf", long)
    short = verify._llama_cpp(str(tmp_path), "gguf/model.gguf", ["a red river"])
    assert (short @ trained.encode("a red river")).min() > 0.99999, "its keys and values are float16"
