"""What the paper leaves open: an answer key, methods judged by it, planted facts, names, published neurons."""
