"""Tensors of a long computation, a chunk per file: a stop costs one chunk, and a damaged file is computed again.

Any number of processes may work in one folder. A file appears at once, and carries what it belongs to and a digest of
its tensors, so that nothing of another computation, of a half-written file or with a flipped bit is ever read.
"""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..data.files import write_atomically


class ChunkStore:
    """The folder of one computation.

    Args:
        folder: made if it is not there.
        about: a digest of all that the computation depends on.
        what: the name of the mark, "key" for key.json.

    Raises:
        ValueError: the folder holds another computation, its mark is damaged, or it is no folder.
        OSError: it cannot be written.
    """

    def __init__(self, folder: str | Path, about: str, what: str):
        if not str(folder):
            raise ValueError("out is empty: name a folder, or leave it out")
        self.folder, self.about = Path(folder), about
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{str(folder)!r} is a file: choose a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = self.folder / f"{what}.json"
        if not mark.exists():
            text = json.dumps({what: about})
            write_atomically(mark, lambda partial: partial.write_text(text, encoding="utf-8"))
        there = self._read_mark(mark, what)
        if there != about:
            raise ValueError(
                f"{str(folder)!r} holds the {what} of another model, facts or baseline: choose another folder"
            )

    def read(self, name: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
        """The tensors of a chunk; None where it is missing, damaged, or another's."""
        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                about, names = file.metadata() or {}, list(file.keys())
                tensors = {key: file.get_tensor(key) for key in names}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None
        own = {"about": self.about, "digest": _digest(tensors)} == about
        return tensors if own and {key: tuple(t.shape) for key, t in tensors.items()} == shapes else None

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep a chunk."""
        tensors = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
        about = {"about": self.about, "digest": _digest(tensors)}
        write_atomically(self.folder / f"{name}.safetensors", lambda partial: save_file(tensors, partial, about))

    @staticmethod
    def _read_mark(mark: Path, what: str) -> str:
        try:
            return json.loads(mark.read_text(encoding="utf-8"))[what]
        except (ValueError, KeyError, TypeError, RecursionError, OSError):  # cut, nested, a list, not a text, a folder
            raise ValueError(f"{str(mark)!r} is damaged: delete its folder, or choose another") from None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(repr((key, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
