"""The page: what it answers over HTTP, and that it works in a browser."""

import gc
import json
import shutil
import socket
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request
import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.search.files import SearchTexts
from f2jax.search.serve import Page, make_server
from f2jax.search.two_pass import Search, SearchOptions

TEXTS = [
    "a red river",
    "the blue stone",
    "камень и река",
    "日本の石",
    "<b>bold</b> & tree",
    "השפה העברית נכתבת מימין לשמאל",
]
PLACES = [f"file{i}.txt:{i + 1}" for i in range(len(TEXTS))]
OPTIONS = SearchOptions(k=3, dims=16, candidates=6)


@dataclass
class Letters:
    """An embedder whose vectors count the letters of a text, in 64 buckets."""

    matryoshka_dims = (64, 32, 16)

    def encode_query(self, texts, show_progress_bar=None):
        x = np.full((len(texts), 64), 0.01, np.float32)
        for row, text in zip(x, texts, strict=True):
            np.add.at(row, [hash_of(letter) for letter in text if letter.isalpha()], 1)
        return x


def hash_of(letter: str) -> int:
    return ord(letter) * 37 % 64


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(SearchTexts(Letters().encode_query(TEXTS), TEXTS, PLACES), Letters(), OPTIONS)


@pytest.fixture(scope="module")
def address(page):
    with make_server(page, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


def get(url: str, **headers) -> tuple[int, str, str]:
    """Status, kind and content of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=600) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.mark.parametrize("dims", [16, 32, 64])
@pytest.mark.parametrize("query", ["red river", "река", "日本の石", "עברית"])
def test_the_answer_is_that_of_the_search_with_texts_places_and_times(address, query, dims):
    status, kind, content = get(f"{address}/find?q={urllib.parse.quote(query)}&dims={dims}&k=3")
    assert (status, kind) == (200, "application/json; charset=utf-8")
    answer = json.loads(content)
    vectors = Letters().encode_query(TEXTS)
    wanted = Search(vectors, SearchOptions(3, dims, 6))(Letters().encode_query([query])).numbers_qk[0]
    assert [(x["text"], x["place"]) for x in answer["found"]] == [(TEXTS[n], PLACES[n]) for n in wanted]
    assert len(answer["milliseconds"]) == 3 and min(answer["milliseconds"]) >= 0


def test_the_page_is_told_what_there_is_to_choose(address):
    about = json.loads(get(f"{address}/about")[2])
    assert about == {
        "documents": 6,
        "choices": [16, 32, 64],
        "examples": [" ".join(TEXTS[n].split()[:6])[:40] for n in (0, 1, 2, 3)],  # none with markup, as the fifth
        "k": 3,
        "dims": 16,
        "candidates": 6,
        "precision": "float32",
    }


def test_the_page_is_one_file_that_asks_for_nothing_from_elsewhere(address):
    status, kind, content = get(f"{address}/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert not any(mark in content for mark in ("http://", "https://", "src=", "@import", "<link"))


@pytest.mark.parametrize(
    "path, status, message",
    [
        ("/find?q=x&dims=17", 400, "dims=17 is not one of 16, 32, 64"),
        ("/find?q=x&k=0", 400, "k=0 should be from 1 to 6"),
        ("/find?q=x&k=many", 400, "many"),
        ("/etc/passwd", 404, "no such page"),
        ("/../serve.py", 404, "no such page"),
    ],
)
def test_a_wrong_question_is_answered_with_a_reason(address, path, status, message):
    found, _, content = get(address + path)
    assert found == status and message in content


def test_another_host_name_gets_nothing(address):
    """A page from elsewhere whose name was pointed at this machine."""
    assert get(f"{address}/find?q=x", Host="evil.example")[0] == 403


@pytest.mark.parametrize("host, path", [("[", "/"), ("localhost", "http://[/")], ids=["host", "path"])
def test_an_address_that_is_none_is_refused_without_a_traceback(address, capfd, host, path):
    with socket.create_connection(("localhost", int(address.rsplit(":", 1)[1]))) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        assert client.makefile().readline().split()[1] == "400"
    assert capfd.readouterr().err == ""


def test_a_client_that_goes_away_is_not_talked_about(capfd):
    """It is gone when the answer comes: the second write after a reset fails."""
    asked, gone, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def about(self):
            asked.set()
            gone.wait(600)
            return {"documents": "x" * 2**24}

    with make_server(Slow(), 0) as server:
        shutdown_request = server.shutdown_request
        server.shutdown_request = lambda request: (shutdown_request(request), ended.set())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = socket.create_connection(server.server_address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is a reset
        client.sendall(b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.wait(600)
        client.close()
        gone.set()
        assert ended.wait(600)
        server.shutdown()
    assert capfd.readouterr().err == ""


def test_no_more_than_two_searches_keep_documents_on_the_devices(monkeypatch):
    made = []

    def watched(*args):
        search = Search(*args)
        made.append(weakref.ref(search))
        return search

    monkeypatch.setattr("f2jax.search.serve.Search", watched)
    page = Page(SearchTexts(Letters().encode_query(TEXTS), TEXTS), Letters(), OPTIONS)
    for dims in (16, 32, 16, 64):
        page.find("река", dims, 3)
    gc.collect()
    assert [search() is not None for search in made] == [True, False, True], "16 was asked for after 32"


def test_documents_may_be_truncated_to_a_width_of_the_model():
    vectors = Letters().encode_query(TEXTS)
    found = Page(SearchTexts(vectors[:, :32], TEXTS), Letters(), OPTIONS)
    assert found.about()["choices"] == [16, 32]
    wanted = Search(vectors[:, :32], SearchOptions(3, 16, 6))(Letters().encode_query(["река"])[:, :32]).numbers_qk[0]
    assert [x["text"] for x in found.find("река", 16, 3)["found"]] == [TEXTS[n] for n in wanted]


def test_the_page_offers_words_and_no_tables_headings_or_code():
    texts = ["| symptom | remedy |", "# A heading", "`f2jax --help`", "20.5 seconds", ") of"]
    texts += ["हिन्दी में खोजें", "Where, then? (here)"]
    page = Page(SearchTexts(Letters().encode_query(texts), texts), Letters(), replace(OPTIONS, candidates=3))
    assert page.examples() == texts[5:]


def test_a_port_that_is_taken_is_refused(page, address):
    with pytest.raises(UserError, match=r"Port .* cannot be used"):
        make_server(page, int(address.rsplit(":", 1)[1]))


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: the machine's, or Playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as running:
        try:
            browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=600_000)
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


def test_people_see_what_is_found_in_any_direction_and_the_slider_changes_it(browser, address):
    tab = browser.new_page()
    tab.set_default_timeout(60_000)
    mistakes, asked = [], []
    tab.on("pageerror", lambda error: mistakes.append(str(error)))
    tab.on("console", lambda message: mistakes.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    tab.fill("#query", "עברית")
    first = tab.locator("#found li").first
    first.wait_for()
    assert first.locator(".text").inner_text() == TEXTS[5]
    assert first.locator(".place").inner_text() == PLACES[5]
    assert float(first.locator(".score").inner_text()) > 0.5
    for element in ("#query", "#found li:first-child .text"):
        assert tab.locator(element).evaluate("element => getComputedStyle(element).direction") == "rtl"
    assert tab.locator("#found li").count() == 3

    tab.fill("#query", "bold tree")
    tab.get_by_text("<b>bold</b> & tree").wait_for()  # a text is shown, never run
    with tab.expect_response(lambda response: "dims=64" in response.url):
        tab.locator("#dims").fill("2")
    assert tab.locator("#shown").inner_text() == "64"
    tab.locator("#status", has_text="second pass").wait_for()
    tab.fill("#k", "0")
    tab.wait_for_selector("#status.error")
    assert tab.locator("#status").inner_text() == "k=0 should be from 1 to 6."
    tab.fill("#query", "")
    first.wait_for(state="detached")
    assert all(url.startswith(address) for url in asked)
    assert mistakes == ["Failed to load resource: the server responded with a status of 400 (Bad Request)"]
