"""The Python snippets of the page on deploying run as they stand, where the libraries they import are installed."""

import ast
import contextlib
import importlib.util
import io
import re
import threading

import pytest

from f2jax.release import export
from f2jax.serve import openai
from f2jax.serve.options import ServeOptions
from tests import tiny, tiny_model

PAGE = (tiny.ROOT / "docs/tasks/deploy.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
PRINTED = (r"tensor\(\[\[.+, .+\]\]\)", r"\(1, 64\)", r"\w+ is in (Africa|Asia)\.", "64", "64", "64")


def imported(snippet: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(snippet)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def is_installed(module: str) -> bool:
    parent = module.rpartition(".")[0]
    return (not parent or is_installed(parent)) and importlib.util.find_spec(module) is not None


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A package called `release` in a folder of its own, and a server of it."""
    folder = tmp_path_factory.mktemp("deploy")
    embedder = tiny_model.make_embedder(folder / "tokenizer")
    formats = ["onnx"] if is_installed("onnx") else []
    export.export_package(embedder, folder / "release", formats)
    service = openai.Service(embedder, "release", ServeOptions())
    server = openai.make_api_server(service, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, server.server_address[1]
    server.shutdown()
    server.server_close()


def test_there_is_a_snippet_for_each_library():
    assert len(SNIPPETS) == len(PRINTED)


@pytest.mark.parametrize("number", range(len(PRINTED)))
def test_a_snippet_runs(release, monkeypatch, number):
    folder, port = release
    if missing := sorted(module for module in imported(SNIPPETS[number]) if not is_installed(module)):
        pytest.skip(f"{', '.join(missing)} not installed")
    monkeypatch.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(SNIPPETS[number].replace("localhost:8000", f"localhost:{port}"), "snippet", "exec"), {})
    assert re.fullmatch(PRINTED[number], printed.getvalue().strip())
