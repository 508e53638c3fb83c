"""Weights on gs://: the same bits as from a local folder, and each byte is fetched once, where it is needed."""

import json
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file, save_file

from f2jax import files
from f2jax.checkpoints import hf, settings
from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import Qwen3Config
from tests import tiny

CONFIG = Qwen3Config(32, 48, 3, 8, 4, head_dim=8, vocab_size=52)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A folder with random weights, one file; and a head that an encoder has no use for."""
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(abstract_params(CONFIG))
    hf.save_hf(folder, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes))
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": np.zeros((52, 32), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings.config_to_hf(CONFIG, "float32", 1, 0)))
    return folder


@pytest.fixture(scope="module")
def remote(server, local) -> str:
    bucket = server.new_bucket()
    for path in local.iterdir():
        files.write_atomically(f"{bucket}/model/{path.name}", path.read_bytes())
    return f"{bucket}/model"


def same_bits(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def header_bytes(folder) -> int:
    with (folder / "model.safetensors").open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def needed(folder) -> dict[str, np.ndarray]:
    return {name: x for name, x in load_file(folder / "model.safetensors").items() if name != "lm_head.weight"}


def test_the_weights_are_those_of_the_local_folder_and_each_is_fetched_once(local, remote, downloads):
    config, params = hf.load_hf(remote)
    assert config == CONFIG
    assert same_bits(params, hf.load_hf(local)[1])
    fetched = [size for name, size in downloads if name == "model/model.safetensors"]
    assert sum(fetched) == header_bytes(local) + sum(x.nbytes for x in needed(local).values())
    assert len(fetched) == 2 + len(needed(local)), "length, header, and one range a weight"


@pytest.mark.parametrize("shard_bytes", [2**30, 5_000])
def test_weights_are_written_whole_and_in_shards(local, bucket, shard_bytes):
    _, params = hf.load_hf(local)
    files.write_atomically(f"{bucket}/config.json", (local / "config.json").read_bytes())
    hf.save_hf(bucket, params, shard_bytes)
    assert files.exists(f"{bucket}/model.safetensors.index.json") == (shard_bytes == 5_000)
    assert same_bits(params, hf.load_hf(bucket)[1])


def test_writing_again_with_fewer_shards_leaves_no_stale_index(local, bucket):
    _, params = hf.load_hf(local)
    hf.save_hf(bucket, params, 5_000)
    hf.save_hf(bucket, params)
    assert not files.exists(f"{bucket}/model.safetensors.index.json")


def test_a_file_cut_short_and_a_missing_one_are_named(local, bucket):
    with pytest.raises(UserError, match=rf"^There is no file {bucket}/config\.json"):
        hf.load_hf(bucket)
    files.write_atomically(f"{bucket}/config.json", (local / "config.json").read_bytes())
    with pytest.raises(UserError, match=rf"^{bucket} has neither model\.safetensors nor its index"):
        hf.load_hf(bucket)
    content = (local / "model.safetensors").read_bytes()
    for kept in (0, 5, 100, len(content) - 1):
        files.write_atomically(f"{bucket}/model.safetensors", content[:kept])
        with pytest.raises(UserError, match=rf"^{bucket}/model\.safetensors is truncated"):
            hf.load_hf(bucket)


# Prints the bytes that this process fetched, and checks its slices of the weights against the local file.
PROCESS = """
import sys
import jax
import numpy as np
from gcsfs.core import GCSFileSystem
from f2jax.checkpoints import hf, settings
from f2jax.model.qwen3 import abstract_params
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import param_shardings

remote, local, port, number = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(number))
request, sizes = GCSFileSystem._request, []
async def counted(self, method, path, *args, **options):
    answer = await request(self, method, path, *args, **options)
    sizes.append(len(answer[-1]) if "alt=media" in path and "safetensors" in path else 0)
    return answer
GCSFileSystem._request = counted

whole = jax.tree.map(np.asarray, hf.load_hf(local)[1])
config = settings.config_from_hf(hf.files.read_json(f"{local}/config.json"))
_, params = hf.load_hf(remote, shardings=param_shardings(abstract_params(config), make_mesh(MESH)))
def check(x, y):
    assert len(x.addressable_shards) == 2
    for shard in x.addressable_shards:
        np.testing.assert_array_equal(shard.data, y[shard.index])
jax.tree.map(check, params, whole)
print(sum(sizes))
"""


# The weights of which a process needs half the rows (output features, in a Hugging Face matrix), by mesh.
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
HALVED = {
    "fsdp=2, tensor=2": ("o_proj", "down_proj", *NORMS),
    "fsdp=1, tensor=4": ("embed_tokens", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", HALVED)
def test_each_process_fetches_the_rows_of_its_devices_once(server, local, remote, mesh):
    """Two processes of two devices, each with half of the mesh's first axis that is longer than one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", PROCESS.replace("MESH", mesh), remote, str(local), port]
    environment = server.environment | {"PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"}
    environment |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    options = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(number)], **options) for number in range(2)]
    printed = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]

    shares = {name: 2 if name.split(".")[-2] in HALVED[mesh] else 1 for name in needed(local)}
    expected = header_bytes(local) + sum(x.nbytes // shares[name] for name, x in needed(local).items())
    assert printed == [f"{expected}\n"] * 2
