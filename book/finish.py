"""What the build does to the pages that jupyter-book has written, so that they are light and fit for every reader.

Each change takes a page's text and returns it; `finish_pages` applies them all.
"""

import re

from icons import SCRIPT, trim_icons
from pictures import split_pictures

EMPTY_HEADER = re.compile(r"<th\b([^>]*)>(?:\s|&nbsp;|&#160;)*</th>")
INLINE_SCRIPT = re.compile(r"\n?\s*<script>.*?</script>", re.DOTALL)
CELL = re.compile(r"<td\b([^>]*)>((?:(?!</?td\b).)*)</td>", re.DOTALL)
NUMBER = re.compile(r"[−+±-]?\d(?:[\d.,\s%×()\[\]−+–-]|\bof\b|\bto\b)*")  # 3 · −45.6 % [−50.1, −41.0] · 11 of 12
SIGNATURE = re.compile(r'<dl>\s*((?:<dd>(?:(?!</?dl\b).)*?class="sig-param".*?</dd>\s*)+)</dl>', re.DOTALL)


def finish_pages(html):
    """Change every page in this folder, and what belongs to it."""
    pages = {path: path.read_text(encoding="utf-8") for path in html.rglob("*.html") if "_static" not in path.parts}
    split = {}
    for path, text in pages.items():
        for change in (without_repeated_scripts, without_icon_script, sound_tables, sound_lists):
            text = change(text)
        pages[path] = split_pictures(text, path.parent, split)
        path.write_text(pages[path], encoding="utf-8")
    trim_icons(html, pages.values())


def without_repeated_scripts(text):
    """The theme writes some scripts twice, and a browser refuses to declare a constant twice."""
    seen = set()

    def once(script):
        is_new = script[0].strip() not in seen
        seen.add(script[0].strip())
        return script[0] if is_new else ""

    return INLINE_SCRIPT.sub(once, text)


def without_icon_script(text):
    return SCRIPT.sub("", text)


def sound_tables(text):
    """An empty header is no header; a number with its interval stays on one line."""
    text = EMPTY_HEADER.sub(r"<td\1></td>", text)
    return CELL.sub(lambda cell: f"<td{number_class(*cell.groups())}>{cell[2]}</td>", text)


def number_class(attributes, content):
    if not NUMBER.fullmatch(re.sub(r"<[^>]*>", "", content).strip()):
        return attributes
    if 'class="' in attributes:
        return attributes.replace('class="', 'class="number ')
    return f'{attributes} class="number"'


def sound_lists(text):
    """What the theme and Sphinx mark up as lists of terms, or as a list, and is none; the menu's arrows get a name."""
    text = SIGNATURE.sub(lambda found: found[1].replace("<dd>", "<div>").replace("</dd>", "</div>"), text)
    text = text.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    return text.replace("<summary><span ", '<summary aria-label="Pages of this section"><span ')
