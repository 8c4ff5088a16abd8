"""The pictures of the built pages: SVG without a ground, with a copy for the dark page, legible on a phone."""

import re

LEAST_LETTERS = 9  # px, the height of the smallest letters on a narrow screen
DARK_GROUND = 18  # of 255, the dark page of the theme, #121212
KEPT = {"#000000", "#262626", "#ffffff"}  # letters on coloured cells; the middle one is seaborn's
COLOUR = re.compile(r'\b(fill|stroke)(="|:\s*)(#[0-9a-fA-F]{6}|#fff)\b')
IMAGE = re.compile(r'<img\b([^>]*?)\bsrc="([^"]*_images/[^"]+)\.svg"([^>]*?)\s*/?>')


def split_pictures(page_text, folder, done):
    """The page with each of its SVG pictures twice, for a light and for a dark page; the copies are written.

    Args:
        folder: of the page, to which the addresses of pictures are relative.
        done: the size, and the least width, of the pictures that other pages have split, by path; this adds to it.
    """

    def twice(image):
        before, name, after = image.groups()
        path = (folder / f"{name}.svg").resolve()
        if path not in done:
            done[path] = write_copies(path)
        size, least = done[path]
        attributes = with_style(f"{size} {before.strip()} {after.strip()}".strip(), f"min-width: {least:.0f}px")
        return (
            f'<span class="picture"><img class="only-light" src="{name}.svg" {attributes} />'
            f'<img class="only-dark" loading="lazy" src="{name}-dark.svg" {attributes} /></span>'
        )

    return IMAGE.sub(twice, page_text)


def with_style(attributes, style):
    if 'style="' in attributes:
        return attributes.replace('style="', f'style="{style}; ')
    return f'{attributes} style="{style}"'


def write_copies(path):
    """Take the ground from this SVG, write its dark copy beside it; its size, and the least width that is legible."""
    picture = compact(without_ground(path.read_text(encoding="utf-8")))
    path.write_text(picture, encoding="utf-8")
    path.with_name(f"{path.stem}-dark.svg").write_text(dark(picture), encoding="utf-8")
    return size(picture), least_width(picture)


def without_ground(svg):
    """Without the white rectangle behind everything: matplotlib's first patch, or the first one of a drawing."""
    svg = re.sub(r'(<g id="patch_1">\s*<path [^>]*?fill: )#ffffff', r"\1none", svg, count=1)
    return re.sub(r'<rect width="\d+" height="\d+" rx="\d+" fill="#fff"/>\n?', "", svg, count=1)


def compact(svg):
    """Without comments and line ends, lengths to a hundredth. Small numbers, such as scales, keep their digits."""
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\b([1-9]\d*\.\d\d)\d+", r"\1", svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


def dark(svg):
    """The same picture for a dark page: greys are turned over, colours stay."""
    return COLOUR.sub(lambda match: match[1] + match[2] + dark_colour(match[3].lower(), match[1]), svg)


def dark_colour(colour, role):
    """White becomes the dark ground, dark ink light, a faint band faint; a slight tint is kept."""
    if colour in KEPT and not (colour == "#ffffff" and role == "stroke"):
        return colour
    channels = [255] * 3 if colour == "#fff" else [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    if max(channels) - min(channels) > 32:
        return colour
    mean = sum(channels) / 3
    turned = DARK_GROUND + 240 * (1 - mean / 255) ** 0.8
    return "#" + "".join(f"{min(255, max(0, round(turned + c - mean))):02x}" for c in channels)


def size(svg):
    """Width and height in px, as attributes of an image, so that a page keeps its place for a picture to come."""
    inner = [float(side) for side in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()]
    points = 4 / 3 if re.search(r'<svg [^>]*width="[\d.]+pt"', svg) else 1
    return 'width="{:.0f}" height="{:.0f}"'.format(*(side * points for side in inner))


def least_width(svg):
    """The width in px at which the smallest letters are `LEAST_LETTERS` high; 0 without letters."""
    sizes = [100 * float(scale) for scale in re.findall(r"scale\((0\.\d+) -0\.\d+\)", svg)]  # of outlines
    sizes += [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    return LEAST_LETTERS * width / min(sizes) if sizes else 0
