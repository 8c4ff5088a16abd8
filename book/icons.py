"""Of the theme's 2,000 icons the pages keep the twenty they use: fonts of a few kB for a script of 1.5 MB."""

import re

from fontTools.subset import Options, Subsetter, load_font, save_font

SCRIPT = re.compile(r'\s*<script src="[^"]*/fontawesome/[^"]*"></script>')
CLASS = re.compile(r"\bfa-([a-z0-9-]+)")
TTF = re.compile(r',url\([^)]*\.ttf\) format\("truetype"\)')
RULE = re.compile(r'((?:\.fa-[a-z0-9-]+:+before,?)+)\{content:"([^"]*)"\}')  # which icon a class shows


def trim_icons(html, page_texts):
    """Cut the theme's icon fonts and their style down to what the pages, the theme's scripts and styles ask for."""
    for folder in (html / "_static/vendor/fontawesome").glob("*"):
        style = folder / "css/all.min.css"
        names, characters = used_icons(html, page_texts)
        rules, shown = used_rules(style.read_text(encoding="utf-8"), names)
        style.write_text(TTF.sub("", rules), encoding="utf-8")
        for path in (folder / "js").glob("*"):
            path.unlink()
        for font in (folder / "webfonts").glob("*.ttf"):
            write_subset(font, characters | shown)


def used_icons(html, page_texts):
    """Names of icons in pages and scripts; characters of the icon font that the theme's styles write themselves."""
    scripts = [path.read_text(encoding="utf-8") for path in (html / "_static/scripts").glob("*.js")]
    styles = "".join(path.read_text(encoding="utf-8") for path in (html / "_static/styles").glob("*.css"))
    escaped = {chr(int(code, 16)) for code in re.findall(r"\\(f[0-9a-f]{3})\b", styles)}
    names = {name for text in [*page_texts, *scripts] for name in CLASS.findall(text)}
    return names, escaped | set(re.findall(r"[\ue000-\uf8ff]", styles))


def used_rules(style, names):
    """The style without the rules of other icons, and the characters that are left."""
    shown = set()

    def keep(rule):
        if not names & set(CLASS.findall(rule[1])):
            return ""
        shown.add(chr(int(rule[2][1:], 16)) if rule[2].startswith("\\") else rule[2])
        return rule[0]

    return RULE.sub(keep, style), shown


def write_subset(font, characters):
    """Replace a font's woff2 by one with these characters only; its ttf, for old browsers, goes."""
    options = Options(flavor="woff2", notdef_outline=True)
    whole = load_font(font, options)
    subsetter = Subsetter(options)
    subsetter.populate(text="".join(sorted(characters)))
    subsetter.subset(whole)
    save_font(whole, font.with_suffix(".woff2"), options)
    font.unlink()
