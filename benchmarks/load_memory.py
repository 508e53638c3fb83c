"""Peak memory for reading a checkpoint, as a multiple of its size, in a separate process for each stored type.

python -m benchmarks.load_memory [--layers 24]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from f2jax.checkpoints import hf, settings
from f2jax.model.sizes import size

READ = """
import resource, sys
import jax, numpy as np
from f2jax.checkpoints import hf, settings
jax.device_put(np.zeros(8)).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_, params = hf.load_hf(sys.argv[1], jax.numpy.dtype(sys.argv[2]))
jax.block_until_ready(params)
size = sum(x.nbytes for x in jax.tree.leaves(params))
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(f"{size / 2**30:.2f} GiB of {sys.argv[2]} read with a peak of {peak / 2**30:.2f} GiB: {peak / size:.2f} x")
"""


def write(folder: Path, layers: int) -> None:
    """Writes a checkpoint of the 0.6b shape with `layers` layers in 1 GiB shards, one shard at a time."""
    config = size("0.6b", layers=layers)
    (folder / "config.json").write_text(json.dumps(settings.config_to_hf(config, "float32", 1, 0)))
    weight_map, d, h = {}, config.width, config.head_dim
    groups = {"embed_tokens.weight": (config.vocab_size, d), "norm.weight": (d,)}
    shards = [groups]
    for layer in range(layers):
        shapes = {
            "attention_norm": (d,),
            "query": (config.heads * h, d),
            "key": (config.kv_heads * h, d),
            "value": (config.kv_heads * h, d),
            "query_norm": (h,),
            "key_norm": (h,),
            "output": (d, config.heads * h),
            "mlp_norm": (d,),
            "gate": (config.mlp, d),
            "up": (config.mlp, d),
            "down": (d, config.mlp),
        }
        shards.append({f"layers.{layer}.{hf.LAYER_NAMES[name]}": shape for name, shape in shapes.items()})
    for number, shapes in enumerate(shards):
        file = f"model-{number:05}.safetensors"
        save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, folder / file)
        weight_map |= dict.fromkeys(shapes, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24, help="layers of the 0.6b shape; 63 MB each in float32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), args.layers)
        for dtype in ("float32", "bfloat16"):
            subprocess.run([sys.executable, "-c", READ, name, dtype], check=True)
