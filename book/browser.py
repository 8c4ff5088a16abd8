"""The checks of the built book in a browser: how a page looks, what it asks for, whether everybody can use it."""

import contextlib
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = 1280, 390  # px
BAD = ("serious", "critical")  # what axe calls an obstacle
SMALL_PICTURES = """[...document.querySelectorAll('.picture img')].filter(image => image.checkVisibility()
    && image.getBoundingClientRect().width + 1 < parseFloat(image.style.minWidth)).map(image => image.src)"""
LOAD_ALL = """Promise.all([...document.images].filter(image => image.checkVisibility()).map(image => {
    image.loading = 'eager'; return image.decode() }))"""
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def find_browser():
    """The path of the first browser that is installed, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *details):
        pass


@contextlib.contextmanager
def served(folder):
    """The address of a local server of this folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def check_in_browser(executable, html, pages, shots=None):
    """One line per problem of these pages, wide and narrow, light and dark.

    Args:
        pages: paths of .html files below the folder `html`.
        shots: a folder for a picture of every view.
    """
    with served(html) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for theme, width in product(("light", "dark"), (WIDE, NARROW)):
            context = browser.new_context(viewport={"width": width, "height": 900})
            context.add_init_script(f"for (const k of ['mode', 'theme']) localStorage.setItem(k, '{theme}')")
            for path in pages:
                shot = shots and shots / f"{path.stem}-{theme}-{width}.png"
                for problem in check_view(context.new_page(), address, path, width, shot):
                    yield f"{path} ({theme}, {width} px) {problem}"
        browser.close()


def check_view(view, address, path, width, shot=None):
    messages, requests = [], []
    view.on("console", lambda m: messages.append(m.text) if m.type == "error" else None)
    view.on("pageerror", lambda error: messages.append(str(error)))
    view.on("request", lambda r: requests.append(r.url))
    view.goto(f"{address}{path.as_posix()}", wait_until="load")
    yield from check_formulas(view)
    if extra := view.evaluate(SIDEWAYS):
        yield f"is {extra} px wider than the window."
    yield from (f"shows {source} too small to read." for source in view.evaluate(SMALL_PICTURES))
    yield from (f"reports in the console: {text}" for text in messages)
    yield from (f"asks for {r}." for r in requests if not r.startswith((address, "data:", "blob:")))
    if shot:
        view.evaluate(LOAD_ALL)
        view.screenshot(path=shot, full_page=True)
    if width == WIDE:
        yield from check_access(view)
    view.close()


def check_formulas(view):
    if not view.locator(".math").count():
        return
    view.evaluate("() => MathJax.startup.promise")
    if view.locator("mjx-container").count() < view.locator(".math").count():
        yield "has formulas that MathJax did not render."
    if errors := view.locator("mjx-merror").count():
        yield f"has {errors} formulas with an error."


def check_access(view):
    """What axe finds that keeps somebody from using the page."""
    for rule in Axe().run(view).response["violations"]:
        if rule["impact"] in BAD:
            for node in rule["nodes"]:
                reasons = node["any"] or node["all"] or node["none"]
                yield f"fails axe's {rule['id']} at {' '.join(map(str, node['target']))}: {reasons[0]['message']}"
