"""A Sphinx extension: the library's docstrings, as the pages of the reference show them.

Docstrings are written for a reader of the code: in Markdown, with shapes at the end of a line, `# (prompts, neurons)`,
and with what comes back as sentences. Here they become what napoleon and reStructuredText understand.
"""

import re

SHAPE = re.compile(r"\s+# (.*\(.*\).*)$")
CODE = re.compile(r"(`[^`\n]+`)(\w?)")
LAST_SECTIONS = ("Raises:", "Example:")
FIELD_OF_A_TUPLE = "Alias for field number"


def setup(app):
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}


def skip(app, what, name, member, skipped, options):
    """Leave out what Python says about each field of a named tuple; None leaves the decision to others."""
    return True if (getattr(member, "__doc__", None) or "").startswith(FIELD_OF_A_TUPLE) else None


def process(app, what, name, member, options, lines):
    lines[:] = with_returned([with_code(line) for line in with_shape(lines)])


def with_code(line):
    """A letter may follow code, as in `Neuron`s."""
    return CODE.sub(lambda found: found[1] + (rf"\ {found[2]}" if found[2] else ""), line)


def with_shape(lines):
    """The shape at the end of the first line becomes a section, unless the docstring says what comes back."""
    found = SHAPE.search(lines[0]) if lines else None
    if not found:
        return lines
    summary = [SHAPE.sub("", lines[0]), *lines[1:]]
    if "Returns:" in lines:
        return summary
    end = next((i for i, line in enumerate(summary) if line in LAST_SECTIONS), len(summary))
    return [*summary[:end], "", "Returns:", f"    {found[1]}.", "", *summary[end:]]


def with_returned(lines):
    """Sections on what comes back become fields: napoleon would take the words before a colon for a type."""
    return [":returns:" if line in ("Returns:", "Yields:") else line for line in lines]
