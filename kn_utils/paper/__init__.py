"""The paper's experiments over many facts, their results, and its numbers beside ours: `python -m kn_utils.paper`."""
