"""Check the built book: complete, executed, self-contained, linked, light, and sound in a browser.

    python book/check.py                        # after `make book`
    python book/check.py --screenshots DIR      # also save every page, light and dark, wide and narrow

Each check yields one line per problem.
"""

import argparse
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat

from browser import BROWSERS, check_in_browser, find_browser
from build import ROOT, toc_pages

WEIGHT_LIMIT = 2_500_000  # bytes of a page with its scripts, styles, images and fonts
PASSIVE_LINKS = {"author", "canonical", "index", "license", "next", "prev", "search"}
REPEATED_IDS = {"exercise-content", "solution-content"}  # from sphinx-exercise, once per exercise
MARKUP = re.compile(r"{{ \w+ }}|```{\w+}|{(?:glue|term|cite|numref|ref)[\w:]*}`")


class Page(HTMLParser):
    """What the checks need of one page: ids, links, assets, images of the article."""

    def __init__(self, path):
        super().__init__()
        self.path, self.ids, self.links, self.assets, self.images = path, [], [], [], []
        self.in_article = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.in_article |= tag == "article"
        if "id" in a:
            self.ids.append(a["id"])
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag == "link" and not set((a.get("rel") or "").split()) & PASSIVE_LINKS:
            self.assets.append(a["href"])
        elif tag in ("script", "img", "iframe", "source", "video", "audio") and a.get("src"):
            self.assets.append(a["src"])
        if tag == "img" and self.in_article:
            self.images.append((a.get("src", ""), a.get("alt") or ""))

    def handle_endtag(self, tag):
        if tag == "article":
            self.in_article = False


def local(page_path, url):
    """The file and fragment an address of this page leads to; None for an address elsewhere."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    path = (page_path.parent / unquote(parts.path)).resolve() if parts.path else page_path
    return (path / "index.html" if path.is_dir() else path), unquote(parts.fragment)


# ---------------------------------------------------------------- the files

def check_complete(html, toc):
    for page in toc:
        if not (html / page.with_suffix(".html")).is_file():
            yield f"{page} is in _toc.yml but has no page: run `make book`."


def check_executed(src, toc):
    for path in (p for p in toc if p.suffix == ".ipynb" and (src / p).is_file()):
        for number, cell in enumerate(nbformat.read(src / path, as_version=4).cells, 1):
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            if cell.execution_count is None:
                yield f"{path}: cell {number} was never executed."
            for output in cell.outputs:
                if output.output_type == "error" or output.get("name") == "stderr":
                    yield f"{path}: cell {number} wrote {output.get('ename', 'to stderr: ' + output.get('text', ''))}"


def check_requests(page):
    """No script, style, image or font from elsewhere, neither in the page nor in its styles."""
    for url in page.assets:
        target = local(page.path, url)
        if target is None and not url.startswith("data:"):
            yield f"asks for {url}, outside the book: vendor it under book/_static."
        elif target and target[0].suffix == ".css":
            for inner in css_urls(target[0]):
                if inner.startswith(("http:", "https:", "//")):
                    yield f"asks, by {target[0].name}, for {inner}, outside the book."


def css_urls(path):
    return re.findall(r"""url\(\s*["']?([^"')]+)""", path.read_text(encoding="utf-8"))


def check_weight(page):
    """A browser takes the woff2 of a font that comes in several formats."""
    files = {page.path} | {target[0] for url in page.assets if (target := local(page.path, url))}
    for style in [f for f in files if f.suffix == ".css"]:
        targets = [local(style, url) for url in css_urls(style) if ".woff2" in url]
        files |= {target[0] for target in targets if target}
    weight = sum(f.stat().st_size for f in files if f.is_file())
    if weight > WEIGHT_LIMIT:
        much = f"weighs {weight / 1e6:.1f} MB, more than {WEIGHT_LIMIT / 1e6:.1f} MB"
        yield f"{much}: pass rasterized=True where its figures draw many points."


def check_links(page, pages):
    for url in sorted(set(page.links + page.assets)):
        if (target := local(page.path, url)) is None:
            continue
        path, fragment = target
        if not path.exists():
            yield f"links to {url}, which does not exist."
        elif fragment and path in pages and fragment not in pages[path].ids:
            yield f"links to {url}, but that page has no such anchor."


def check_article(page):
    for name, count in Counter(page.ids).items():
        if count > 1 and name not in REPEATED_IDS:
            yield f"has {count} elements with the id {name!r}."
    for source, alt in page.images:
        if not alt.strip() or alt == source or alt.endswith((".png", ".svg")):
            yield f"shows {source} without alt text: set mystnb.image.alt in the cell's metadata."
        if source.endswith(".png"):
            yield f"shows {source}, a white card on a dark page: draw it as SVG, after figures.use_house_style()."
    for markup in MARKUP.findall(page.path.read_text(encoding="utf-8")):
        yield f"shows {markup!r} as it was written: it is markup that was not understood."


def check_files(html, src, toc):
    yield from check_complete(html, toc)
    yield from check_executed(src, toc)
    pages = {path: Page(path) for path in sorted(html.rglob("*.html")) if "_static" not in path.parts}
    for path, page in pages.items():
        name = path.relative_to(html)
        checks = [check_requests(page), check_weight(page), check_links(page, pages)]
        if name.with_suffix("") in [p.with_suffix("") for p in toc]:  # the theme's search page repeats an id
            checks.append(check_article(page))
        for check in checks:
            yield from (f"{name} {problem}" for problem in check)


def main():
    parser = argparse.ArgumentParser(description="Check the built book.")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="save a picture of every page there")
    shots = parser.parse_args().screenshots
    html, toc = ROOT / "_build/html", toc_pages(ROOT)
    executable = find_browser()
    if not executable:
        sys.exit(f"No browser on the PATH ({', '.join(BROWSERS)}): install one, such as `apt-get install chromium`.")
    problems = list(check_files(html, ROOT / "_build/src", toc))
    if not problems:
        problems += check_in_browser(executable, html, [page.with_suffix(".html") for page in toc], shots)
    for problem in problems:
        print(problem)
    if problems:
        sys.exit(f"The built book has {len(problems)} problems.")
    print(f"The built book is sound: {len(toc)} pages, also in a browser.")


if __name__ == "__main__":
    main()
