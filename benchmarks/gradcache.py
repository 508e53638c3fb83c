"""Memory of a training step by the size of the batch and of its chunks, as planned by the TPU compiler for one chip.

python -m benchmarks.gradcache [--size 80m] [--sequences 4608 16384 65536] [--chunk-rows 0 8 32] [--topology v5p:2x2x1]

No TPU is needed: `pip install 'f2jax[tpu]'` installs the compiler. A step that does not fit the chip is marked so.
"""

import argparse
import os
import re

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # this only compiles, and uses no chip

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from f2jax.configs import common
from f2jax.data.dataset import Row, texts_of
from f2jax.data.packing import PACKED, assemble
from f2jax.data.shapes import RowRules
from f2jax.model.sizes import size
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import ROW_SPEC
from f2jax.train.program import Program
from f2jax.train.step import DeviceBatch

NEGATIVES, ROW_LENGTH, MEAN_TOKENS = 7, 1024, 128


def make_batch(sequences: int, chunk_rows: int):
    """Returns a retrieval batch of distinct texts with lengths around `MEAN_TOKENS`."""
    rng = np.random.default_rng(0)
    queries = sequences // (2 + NEGATIVES)

    def text():
        length = int(np.clip(rng.gamma(2.0, MEAN_TOKENS / 2), 2, ROW_LENGTH))
        return rng.integers(0, 150_000, length).astype(np.int32)

    rows = [Row(text(), text(), [text() for _ in range(NEGATIVES)], b, [b] * NEGATIVES, -1) for b in range(queries)]
    options = {"kind": "retrieval", "batch_size": queries, "rules": RowRules(ROW_LENGTH, chunk_rows), "pad_id": 0}
    return assemble(texts_of(rows), NEGATIVES, **options)


def temporary_bytes(name: str, device, batch, remat: str) -> int | None:
    """Returns the bytes that the compiled step needs besides its arguments, or None if the chip has fewer."""
    config = common.get_config(f"size={name}")
    config.model.update(kernel="splash", remat=remat)
    mesh = make_mesh(devices=[device])
    program = Program(config, size(name), mesh, steps=1000)

    def shape(key, x):
        where = NamedSharding(mesh, ROW_SPEC if key in PACKED else PartitionSpec())
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    shapes = {key: shape(key, x) for key, x in batch.arrays().items()}
    with jax.set_mesh(mesh):
        lowered = program.step.lower(program.state, DeviceBatch.of(shapes), None, kind=batch.kind)
        try:
            return lowered.compile().memory_analysis().temp_size_in_bytes
        except jax.errors.JaxRuntimeError as error:
            if not re.search("RESOURCE_EXHAUSTED|hbm", str(error)):
                raise
            return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="80m")
    parser.add_argument("--sequences", type=int, nargs="+", default=[4_608, 16_384, 65_536])
    parser.add_argument("--chunk-rows", type=int, nargs="+", default=[0, 8, 32], help="0: the whole batch at once")
    parser.add_argument("--remat", default="full")
    parser.add_argument("--topology", default="v5p:2x2x1")
    args = parser.parse_args()
    chip = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices[0]
    print("| sequences | packed rows | tokens | rows of a chunk | temporary memory, GiB |\n|---:|---:|---:|---:|---:|")
    for sequences in args.sequences:
        for chunk_rows in args.chunk_rows:
            batch = make_batch(sequences, chunk_rows)
            found = temporary_bytes(args.size, chip, batch, args.remat)
            memory = "does not fit" if found is None else f"{found / 2**30:.2f}"
            counts = f"{sequences:,} | {batch.rows:,} | {batch.useful_tokens:,}"
            print(f"| {counts} | {chunk_rows or 'all'} | {memory} |", flush=True)
