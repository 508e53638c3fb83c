"""Exits are the hidden states of transformers; a package of fewer layers and a smaller rank loads elsewhere."""

from dataclasses import replace

import numpy as np
import pytest

from f2jax.data.packing import pack
from f2jax.inference.embedder import Embedder
from f2jax.model import nested
from f2jax.model.qwen3 import Qwen3
from f2jax.model.sizes import Qwen3Config
from tests.parity.oracle import BASE, save_for_transformers, sequences_of
from tests.tiny_model import TEXTS, make_embedder, random_params

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("layers", [1, 4])
def test_exits_are_the_normed_hidden_states_of_transformers(tmp_path, layers):
    config = Qwen3Config(**BASE | {"layers": layers})
    params, sequences = random_params(config), sequences_of([1, 5, 17, 30], config.vocab_size)
    save_for_transformers(tmp_path, config, params)
    packed = pack(sequences, 64, pad_id=0)
    found_lsd = Qwen3(config).apply(
        {"params": params}, packed.tokens_bt, packed.segments_bt, packed.positions_bt, (packed.row_s, packed.col_s)
    )
    model = transformers.Qwen3Model.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    for number, ids in enumerate(sequences):
        with torch.no_grad():
            states = model(torch.tensor(ids[None].astype(np.int64)), output_hidden_states=True).hidden_states
            wanted = [model.norm(x[0, -1]) for x in states[1:-1]] + [states[-1][0, -1]]  # the last one is normed
        np.testing.assert_allclose(found_lsd[:, number], np.stack(wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("layers", "rank"), [(1, 24), (2, 8), (2, 24)])
def test_sentence_transformers_loads_a_package_of_some_depth_and_rank(tmp_path, layers, rank):
    whole = make_embedder(tmp_path / "tokenizer")
    factors = nested.factorize_table(whole.params, 24)
    architecture = replace(whole.architecture, table_rank=24)
    ours = Embedder(*nested.cut_nested(architecture, factors, layers, rank), whole.tokenizer, whole.settings)
    ours.save_pretrained(tmp_path / "package")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "package"), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS, normalize_embeddings=True), ours.encode(TEXTS), atol=1e-5)
