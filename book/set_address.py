"""Give the book its public address, everywhere at once.

    python book/set_address.py https://github.com/someone/repo

`_config.yml` holds the present address; README, notebooks, pages and metadata repeat it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "CITATION.cff", "pyproject.toml", "_config.yml", "book/*.md", "notebooks/**/*.ipynb")
ADDRESS = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)/?(\.git)?")


def slug_of(address):
    """`https://github.com/someone/repo` -> `someone/repo`"""
    if not (match := ADDRESS.fullmatch(address)):
        raise ValueError(f"{address!r} is not an address like https://github.com/someone/repo")
    return match[1]


def present_slug(root):
    url = re.search(r"^\s*url:\s*(\S+)", (root / "_config.yml").read_text(encoding="utf-8"), re.MULTILINE)
    return slug_of(url[1])


def places(slug):
    """Where an address appears: GitHub, Colab (`/github/`), Binder (`/gh/`) and the published pages."""
    owner, name = map(re.escape, slug.split("/"))
    return re.compile(rf"(github\.com/|/github/|/gh/){owner}/{name}(?![\w-])"), re.compile(
        rf"https://{owner}\.github\.io/{name}(?![\w-])", re.IGNORECASE
    )


def address_files(root):
    return [path for pattern in FILES for path in sorted(root.glob(pattern)) if ".ipynb_checkpoints" not in path.parts]


def set_address(root, address):
    """Replace the present address in every file; returns the files that changed."""
    new = slug_of(address)
    repository, pages = places(present_slug(root))
    owner, name = new.split("/")
    changed = []
    for path in address_files(root):
        old_text = path.read_text(encoding="utf-8")
        text = repository.sub(rf"\g<1>{new}", old_text)
        text = pages.sub(f"https://{owner.lower()}.github.io/{name}", text)
        if text != old_text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def main():
    if len(sys.argv) != 2:
        sys.exit("Usage: python book/set_address.py https://github.com/someone/repo")
    try:
        changed = set_address(ROOT, sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
    for path in changed:
        print(path.relative_to(ROOT))
    print(f"{len(changed)} files changed.")


if __name__ == "__main__":
    main()
