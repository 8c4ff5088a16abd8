"""book/browser.py on tiny pages, in the browser that is installed."""

import sys
from pathlib import Path

import pytest

import browser
import check

PAGE = """<!DOCTYPE html><html lang="en"><head><title>A page</title><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">{head}</head>
<body><main><h1>A page</h1>{body}</main></body></html>"""
PICTURE = '<span class="picture"><img src="a.svg" alt="A map" style="min-width: 300px; {}"></span>'
DARK_IS_FAINT = """<script>document.documentElement.dataset.theme = localStorage.getItem("theme")</script>
    <style>[data-theme=dark] p { color: #777; background: #666 }</style>"""
CASES = {  # name: (body, head, the problems)
    "good": ("<p>Text.</p>", "", []),
    "faint": ('<p style="color: #999; background: #fff">Text.</p>', "", ["fails axe's color-contrast at p"] * 2),
    "no-alt": ('<img src="a.svg">', "", ["fails axe's image-alt"] * 2),
    "twice": ("<p>Text.</p>", "<script>const A = 1;</script>" * 2, ["'A' has already been declared"] * 4),
    "wide": ('<p style="width: 500px">Text.</p>', "", ["390 px) is 118 px wider than the window."] * 2),
    "picture": (PICTURE.format("max-width: 200px"), "", []),  # the least width wins
    "small": (PICTURE.format("transform: scale(0.5)"), "", ["390 px) shows http"] * 2),
    "dark": ("<p>Text.</p>", DARK_IS_FAINT, ["(dark, 1280 px) fails axe's color-contrast at p"]),
}


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    if not browser.find_browser():
        pytest.skip("no browser on the PATH: `apt-get install chromium`")
    folder = tmp_path_factory.mktemp("pages")
    (folder / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>')
    for name, (body, head, _) in CASES.items():
        (folder / f"{name}.html").write_text(PAGE.format(head=head, body=body))
    return list(browser.check_in_browser(browser.find_browser(), folder, [Path(f"{name}.html") for name in CASES]))


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_problem_is_found_and_no_other(problems, name):
    found = [line for line in problems if line.startswith(f"{name}.html ")]
    expected = CASES[name][2]
    assert len(found) == len(expected), found
    assert all(text in line for text, line in zip(expected, found, strict=True)), found


def test_without_a_browser_the_check_fails_and_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(check, "find_browser", lambda: None)
    monkeypatch.setattr(sys, "argv", ["check.py"])
    with pytest.raises(SystemExit, match=r"No browser on the PATH \(chromium, .*\): install one, such as `apt-get"):
        check.main()
