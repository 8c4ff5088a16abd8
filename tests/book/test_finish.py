"""book/finish.py, icons.py and pictures.py: what the build changes in the pages, and what it leaves alone."""

import re
from itertools import product

import pytest
from fontTools.ttLib import TTFont

import finish
import icons
import pictures

DRAWN = """<svg width="540pt" height="288pt" viewBox="0 0 540 288">
 <g id="figure_1">
  <g id="patch_1">
   <path d="M 0 288
z
" style="fill: #ffffff"/>
  </g>
  <!-- Layer -->
  <g style="fill: #333333" transform="translate(58.584269 286.5) scale(0.08 -0.08)">
   <path transform="scale(0.015625)"/>
  </g>
  <path style="fill: #0173b2; stroke: #ffffff"/><path style="fill: #262626"/><use xlink:href="#abcdef"/>
 </g>
</svg>"""


def test_a_picture_is_shown_twice_and_has_no_ground(tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images/a.svg").write_text(DRAWN)
    page = '<p><img alt="A map" src="_images/a.svg" /></p><img alt="x" src="_static/logo.svg" />'
    done = {}
    text = pictures.split_pictures(page, tmp_path, done)
    light, dark, logo = re.findall(r"<img [^>]*>", text)
    width = round(9 * 540 / 8)
    assert 'class="only-light" src="_images/a.svg" width="720" height="384" alt="A map"' in light
    assert f'style="min-width: {width}px"' in light
    assert 'class="only-dark"' in dark and 'src="_images/a-dark.svg" width="720"' in dark
    assert logo in page
    for name in ("a", "a-dark"):
        assert re.search(r'id="patch_1">\s*<path [^>]*fill: none', (tmp_path / f"_images/{name}.svg").read_text())
    again = pictures.split_pictures(page, tmp_path, done)  # another page with the same picture
    assert again == text


def test_the_dark_copy_turns_greys_over_and_keeps_colours():
    copy = pictures.dark(DRAWN)
    assert "fill: #0173b2" in copy and "fill: #262626" in copy and 'href="#abcdef"' in copy
    assert "stroke: #121212" in copy and "#333333" not in copy


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("grey", "least"), [("#333333", 7), ("#404040", 7), ("#949494", 3), ("#808080", 3)])
def test_ink_and_greys_are_seen_on_both_grounds(grey, least):
    assert contrast(grey, "#ffffff") >= least
    assert contrast(pictures.dark_colour(grey, "fill"), "#121212") >= least


def test_faint_stays_fainter_than_ink_on_a_dark_page():
    steps = [luminance(pictures.dark_colour(f"#{v}{v}{v}", "fill")) for v in ("33", "66", "99", "cc", "eb")]
    assert steps == sorted(steps, reverse=True) and len(set(steps)) == 5


def test_lengths_are_rounded_and_scales_are_not():
    small = pictures.compact(DRAWN)
    assert "translate(58.58 286.5)" in small and "scale(0.015625)" in small and "<!--" not in small


def test_letters_of_a_drawing_decide_its_least_width():
    assert pictures.least_width('<svg viewBox="0 0 760 470"><style>a { font-size: 10px } b { font: 20px x }') == 684
    assert pictures.least_width('<svg viewBox="0 0 760 470">') == 0


# ---------------------------------------------------------------- pages

def test_a_script_is_written_once():
    one, two = "<script>const A = 1;</script>", "<script>const B = 1;</script>"
    assert finish.without_repeated_scripts(f"{one}\n  {two}\n {one}{two}<p>") == f"{one}\n  {two}<p>"
    source = '<script src="a.js"></script>'
    assert finish.without_repeated_scripts(source * 2) == source * 2


def test_the_icon_script_goes_and_no_other():
    icon = '<script src="../_static/vendor/fontawesome/6.5.2/js/all.min.js?digest=1"></script>'
    other = '<script src="a.js"></script>'
    assert finish.without_icon_script(icon + other) == other


def test_empty_headers_are_cells():
    table = '<tr style="a"><th></th><th class="blank">&nbsp;</th><th>Layer</th></tr>'
    assert finish.sound_tables(table) == '<tr style="a"><td></td><td class="blank"></td><th>Layer</th></tr>'


@pytest.mark.parametrize(
    "text", ["3", "−45.6 % [−50.1, −41.0]", "11 of 12", "<p><span>93.3 %</span></p>", "1,100", "0.91 [0.88, 0.94]"]
)
def test_numbers_stay_on_one_line(text):
    assert finish.sound_tables(f"<td>{text}</td>") == f'<td class="number">{text}</td>'
    assert finish.sound_tables(f'<td class="a">{text}</td>') == f'<td class="number a">{text}</td>'


@pytest.mark.parametrize("text", ["", "Ireland", "3 facts that nobody knows", "P36", "<a>1a</a>"])
def test_words_may_break(text):
    assert finish.sound_tables(f"<td>{text}</td>") == f"<td>{text}</td>"


def test_parameters_are_no_list_of_terms():
    parameters = '<dl>\n<dd><em class="sig-param">a</em>,</dd>\n<dd><em class="sig-param">b</em>,</dd>\n</dl>'
    fields = '<dl class="py"><dt>f(</dt><dd><p>Text.</p></dd></dl>'
    found = finish.sound_lists(parameters + fields)
    assert found.count("<div>") == 2 and "<dl>" not in found and fields in found


# ---------------------------------------------------------------- icons

def test_icons_that_nothing_uses_are_left_out():
    style = '.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}.fa-moon:before{content:"\\f186"}.fa-lg{font-size:2em}'
    rules, shown = icons.used_rules(style, {"navicon", "lg"})
    assert "moon" not in rules and ".fa-navicon:before" in rules and ".fa-lg" in rules and shown == {"\uf0c9"}


def test_used_icons_are_found_in_pages_scripts_and_styles(tmp_path):
    for folder, name, text in (
        ("scripts", "theme.js", 'i.className = "fa-solid fa-xmark"'),
        ("styles", "theme.css", 'a:after{content:"\\f107"} :root{--icon:"\uf071"}'),
    ):
        (tmp_path / "_static" / folder).mkdir(parents=True)
        (tmp_path / "_static" / folder / name).write_text(text)
    names, characters = icons.used_icons(tmp_path, ['<i class="fa-brands fa-github">'])
    assert names == {"solid", "xmark", "brands", "github"} and characters == {"\uf107", "\uf071"}


def test_a_subset_has_the_characters_it_is_asked_for(tmp_path):
    folder = pytest.importorskip("matplotlib").get_data_path()
    whole = TTFont(f"{folder}/fonts/ttf/DejaVuSans.ttf")
    whole.save(tmp_path / "a.ttf")
    icons.write_subset(tmp_path / "a.ttf", {"A", "B"})
    kept = TTFont(tmp_path / "a.woff2")
    assert kept.flavor == "woff2" and set(kept.getBestCmap()) == {ord("A"), ord("B")}
    assert not (tmp_path / "a.ttf").exists()


def test_every_colour_of_the_book_is_seen_on_both_grounds():
    figures = pytest.importorskip("kn_utils.figures")
    to_hex = pytest.importorskip("matplotlib.colors").to_hex
    for (name, colour), ground in product(figures.COLOURS.items(), ("#ffffff", "#121212")):
        assert contrast(to_hex(colour), ground) >= 3, (name, ground)
