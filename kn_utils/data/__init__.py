"""One way to fetch, verify, cache, read and write files; and the figures that are shipped."""
