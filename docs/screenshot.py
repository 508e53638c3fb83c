"""Makes docs/search.png: the search page over these pages, with a question in another language.

python docs/screenshot.py    # needs the extra `test` and a Chromium, on the machine or Playwright's own
"""

import shutil
import sys
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from f2jax import Embedder
from f2jax.search.run import folder_corpus
from f2jax.search.serve import Page, make_server
from f2jax.search.two_pass import SearchOptions

HERE = Path(__file__).parent
QUERY = "где хранятся векторы"  # where are vectors stored


def main(query: str) -> None:
    embedder = Embedder.from_pretrained("mini")
    with tempfile.TemporaryDirectory() as folder:  # the search leaves its vectors in the folder
        for path in HERE.rglob("*.md"):
            shutil.copy(path, folder)
        page = Page(folder_corpus(folder, embedder), embedder, SearchOptions(k=3))
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with make_server(page, 0) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 860, "height": 680}, device_scale_factor=1.5)
        tab.goto(f"http://localhost:{server.server_port}/")
        tab.fill("#query", query)
        tab.locator("#found li").nth(2).wait_for()
        tab.screenshot(path=HERE / "search.png", animations="disabled")
        browser.close()
        server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:] or [QUERY])
