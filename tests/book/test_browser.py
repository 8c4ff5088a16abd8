"""book/browser.py on tiny pages, in the browser that is installed."""

import sys
from pathlib import Path

import pytest

import browser
import check

PAGE = """<!DOCTYPE html><html lang="en"><head><title>A page</title><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">{head}</head>
<body><main><h1>A page</h1>{body}</main></body></html>"""
PICTURE = '<span class="picture"><img src="a.svg" alt="A map" style="min-width: {}px; {}"></span>'


def problems(tmp_path, body, head=""):
    (tmp_path / "a.html").write_text(PAGE.format(head=head, body=body))
    (tmp_path / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>')
    return list(browser.check_in_browser(browser.find_browser(), tmp_path, [Path("a.html")]))


@pytest.mark.parametrize(
    ("body", "head", "found"),
    [
        ("<p>Text.</p>", "", ""),
        ('<p style="color: #999; background: #fff">Text.</p>', "", "fails axe's color-contrast at p"),
        ('<img src="a.svg">', "", "fails axe's image-alt"),
        ("<p>Text.</p>", "<script>const A = 1;</script><script>const A = 1;</script>", "'A' has already been declared"),
        ('<p style="width: 500px">Text.</p>', "", "(light, 390 px) is 118 px wider than the window."),
        (PICTURE.format(300, "max-width: 200px"), "", ""),  # the least width wins
        (PICTURE.format(300, "transform: scale(0.5)"), "", "a.svg too small to read."),
    ],
)
def test_every_kind_of_problem_is_found_and_no_other(tmp_path, body, head, found):
    lines = problems(tmp_path, body, head)
    assert bool(lines) == bool(found) and all(found in line for line in lines[:1]), lines


def test_a_problem_of_one_theme_is_found(tmp_path):
    head = """<script>document.documentElement.dataset.theme = localStorage.getItem("theme")</script>
        <style>[data-theme=dark] p { color: #777; background: #666 }</style>"""
    assert [line.partition(" fails")[0] for line in problems(tmp_path, "<p>Text.</p>", head)] == [
        "a.html (dark, 1280 px)"
    ]


def test_without_a_browser_the_check_fails_and_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(check, "find_browser", lambda: None)
    monkeypatch.setattr(sys, "argv", ["check.py"])
    with pytest.raises(SystemExit, match=r"No browser on the PATH \(chromium, .*\): install one, such as `apt-get install"):
        check.main()
