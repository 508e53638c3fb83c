"""Shows how well each way of pruning preserves a model's function before training: cosines to the original's vectors.

python -m benchmarks.prune --model demo/stage2 --width 128 --mlp 384 --layers 3

The texts are not those on which importance is measured. A vector is compared with the original's in the kept
coordinates; `neighbours` is the share of texts whose nearest other text stays the same.
"""

import argparse

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from f2jax import Embedder
from f2jax.data.texts import sample_texts
from f2jax.inference.encode import encode_texts
from f2jax.inference.program import make_embed
from f2jax.model.qwen3 import Qwen3
from f2jax.prune.choose import ChannelChoice, choose_channels, cut_weights, target_architecture
from f2jax.prune.importance import Scoring, calibrate

SETTINGS = {
    "Minitron's scores, rescaled (default)": {},
    "not rescaled": {"rescale": False},
    "scores: l2 over tokens": {"scoring": Scoring(token_score="l2")},
    "scores: variance over tokens": {"scoring": Scoring(token_score="variance")},
    "channels by the residual stream": {"scoring": Scoring(measure="stream")},
    "channels by the final output": {"scoring": Scoring(measure="final")},
    "first channels": {"choice": ChannelChoice(channels="first")},
    "random channels and neurons": {"choice": ChannelChoice(channels="random", neurons="random")},
    "layers by change of the norm": {"choice": ChannelChoice(layers_by="norm_change")},
    "even layers": {"choice": ChannelChoice(layers_by="even")},
}


def nearest(e_se: np.ndarray) -> np.ndarray:
    similarity = e_se @ e_se.T
    np.fill_diagonal(similarity, -2)
    return similarity.argmax(axis=1)


def unit(e_se: np.ndarray) -> np.ndarray:
    return e_se / np.linalg.norm(e_se, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", nargs="+", default=["cldr:translation", "stdlib:code"])
    parser.add_argument("--samples", type=int, default=1024)
    for name in ("width", "mlp", "layers"):
        parser.add_argument(f"--{name}", type=int, default=0)
    args = parser.parse_args()

    embedder = Embedder.from_pretrained(args.model)
    old = embedder.architecture
    new = target_architecture(old, args.width, args.mlp, args.layers)
    texts, others = sample_texts(args.data, args.samples, seed=0), sample_texts(args.data, args.samples, seed=1)
    seen, unseen = (
        embedder.tokenizer.encode(some, embedder.max_length) for some in (texts, sorted({*others} - {*texts}))
    )
    original, embed = embedder.encode_tokens(unseen), make_embed(Qwen3(new))
    print(f"{old.parameters:,} -> {new.parameters:,} parameters, {len(unseen):,} texts\n{'':<40} cosine  neighbours")
    measured = {}
    for name, how in tqdm(SETTINGS.items(), leave=False):
        scoring, choice = how.get("scoring", Scoring()), how.get("choice", ChannelChoice())
        if scoring not in measured:
            measured[scoring] = calibrate(embedder.model, embedder.params, seen, scoring)
        kept = choose_channels(old, new, choice, measured[scoring])
        params = cut_weights(old, embedder.params, kept, measured[scoring] if how.get("rescale", True) else None)
        found = encode_texts(embed, params, unseen, new.width, embedder.tokenizer.pad_id)
        cosine = float(jnp.mean(jnp.sum(unit(found) * unit(original[:, kept.embed]), axis=1)))
        same = np.mean(nearest(unit(found)) == nearest(unit(original)))
        tqdm.write(f"{name:<40} {cosine:6.3f}  {same:9.1%}")


if __name__ == "__main__":
    main()
