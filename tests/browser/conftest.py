"""Headless Chromium that reaches this machine alone: the fixtures `serve`, `visit`, `picture` and `lacking`.

The browser is the system's (on Debian: `apt install chromium`, or CHROMIUM=/path/to/chromium), driven by
playwright. Where either is missing the tests are skipped, but not in CI, where that is a failure.
`--pictures FOLDER` keeps a picture of every page for whoever wants to look.
"""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest


class Visit:
    """A page that was opened, and what went wrong on it."""

    def __init__(self, page):
        self.page = page
        self.errors: list[str] = []   # of the console, and exceptions that nothing caught
        self.failed: list[str] = []   # requests without an answer, or whose answer is an error
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("requestfailed", lambda request: self.failed.append(f"{request.url}: {request.failure}"))
        page.on("response", lambda answer: answer.status >= 400
                and self.failed.append(f"{answer.url}: {answer.status}"))

    @property
    def overhang(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def pytest_addoption(parser):
    parser.addoption("--pictures", type=Path, metavar="FOLDER", help="keep a picture of every page here")


@pytest.fixture(scope="session")
def lacking():
    """lacking(what): ends a test that cannot run without it."""
    return pytest.fail if os.environ.get("CI") else pytest.skip


@pytest.fixture(scope="session")
def serve():
    """serve(folder) -> the address of its files, as long as the tests run."""
    servers = []

    def start(folder: Path) -> str:
        handler = functools.partial(Files, directory=folder)
        servers.append(server := http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def chromium(lacking):
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        lacking("no playwright here: the extra `browser` brings it")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        lacking("no Chromium here; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        # names are not looked up, so nothing outside is reached; root, as in a container, has no sandbox
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0, args=[
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """visit(url, width) -> a Visit, when the page has loaded and no request is under way."""
    contexts = []

    def go(url: str, width: int = 1400, height: int = 900) -> Visit:
        contexts.append(context := chromium.new_context(viewport={"width": width, "height": height}))
        visit = Visit(context.new_page())
        visit.page.goto(url, wait_until="networkidle")
        return visit

    yield go
    for context in contexts:
        context.close()


@pytest.fixture
def picture(request):
    """picture(visit, name): keeps one if `--pictures` says where."""
    folder = request.config.getoption("--pictures")

    def keep(visit: Visit, name: str) -> None:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            visit.page.screenshot(path=folder / f"{name}.png")

    return keep
