"""Which subject do prompts ask about? ParaRel's files do not say.

The prompts of one wording, over all facts of a relation, share all but the subject. So the subject is what differs
between them. What stands beside it in *every* wording and *every* fact may belong to either: "São" in a file of São
Paulo and São Tomé. Then nothing is guessed. Names are cut where words end, however many there are: sixty names that
begin with one letter keep it. Of letters that every wording joins to the name, as in "[X]n", this cannot be told.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import dropwhile, groupby
from os.path import commonprefix

MASK = "[MASK]"
# Thai, Lao, Tibetan, Burmese, Khmer, kana and Chinese characters have no spaces; Korean joins particles to names.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
EDGES = " .,:;!?\"'()"
Frame = tuple[str, str]  # the texts before and after the subject in one wording


def infer_subjects(bags: Sequence[Sequence[str]]) -> list[str | None]:
    """The subject of each fact of one relation.

    Args:
        bags: the prompts of each fact, in the same order of wordings.

    Returns:
        One per fact; None where it cannot be told. Lower-case words beside the subjects in every prompt count as the
        wording's, unless the subjects are lower-case themselves or a word in capitals stands beyond: "University of".
    """
    if len({tuple(prompts) for prompts in bags}) == 1:
        return [_only_subject(bags[0])] * len(bags)
    wordings = [{prompts[k] for prompts in bags if len(prompts) > k} for k in range(max(map(len, bags)))]
    frames = [_frame(wording) for wording in wordings]
    if UNSPACED.search("".join(text for frame in frames if frame for text in frame)):
        return _cut_all(bags, frames) if _ends_told(frames) else [None] * len(bags)
    frames = [frame and _at_words(frame) for frame in frames]
    subjects = _cut_all(bags, frames)
    return [None] * len(bags) if _may_be_longer(subjects, frames) else subjects


def _frame(prompts: set[str]) -> Frame | None:
    """What the prompts of one wording share at their beginnings and ends; None where there is one only."""
    return (commonprefix(list(prompts)), _common_end(prompts)) if len(prompts) > 1 else None


def _at_words(frame: Frame) -> Frame:
    """The same without parts of words: two names that begin or end alike keep those letters."""
    before, after = frame
    return re.search(r"^(.*\s)?", before, re.DOTALL).group(), "".join(dropwhile(_is_letter, after))


def _is_letter(char: str) -> bool:
    """Whether this is a part of a word: a letter, a digit, or a mark or joiner that no word ends at."""
    return char == "_" or unicodedata.category(char)[0] in "LMN" or unicodedata.category(char) == "Cf"


def _common_end(texts: Iterable[str]) -> str:
    return commonprefix([text[::-1] for text in texts])[::-1]


def _cut_all(bags: Sequence[Sequence[str]], frames: Sequence[Frame | None]) -> list[str | None]:
    """Of each fact the longest text that its wordings' frames leave and that stands in all of its prompts."""
    subjects = []
    for prompts in bags:
        framed = [(prompt, *frame) for prompt, frame in zip(prompts, frames, strict=False) if frame]
        cuts = {prompt[len(before) : len(prompt) - len(after)] for prompt, before, after in framed}
        cuts = [cut for cut in cuts if cut.strip() and MASK not in cut and all(cut in prompt for prompt in prompts)]
        subjects.append(max(cuts, key=lambda cut: (len(cut), cut), default=None))
    return subjects


def _ends_told(frames: Sequence[Frame | None]) -> bool:
    """Whether no letter stands beside the subject in every wording, so that none of them can be a part of it."""
    before = _common_end(frame[0] for frame in frames if frame)
    after = commonprefix([frame[1] for frame in frames if frame])
    return not before.strip() and not after.strip()


def _may_be_longer(subjects: Sequence[str | None], frames: Sequence[Frame | None]) -> bool:
    """Whether a word that could be part of a name stands beside the subject in every wording."""
    lower_case = not any(subject[0].isupper() for subject in subjects if subject)
    words = _words_beside([frame for frame in frames if frame])
    return any(lower_case or not word[0].islower() for word in words)


def _words_beside(frames: Sequence[Frame]) -> list[str]:
    """The words that stand before, or after, the subject in every wording, as far as the mask or the sentence's end.

    A capital that begins every prompt says nothing: its word counts only directly beside the subject.
    """
    shared = _shared([before[::-1] for before, _ in frames])[::-1]
    left = _words(shared.rpartition(MASK)[2])
    if len(left) > 1 and all(before == shared for before, _ in frames) and MASK not in shared:
        del left[0]
    return left + _words(re.split(r"[.!?]\s", _shared([after for _, after in frames]).partition(MASK)[0])[0])


def _shared(texts: Sequence[str]) -> str:
    """What all texts begin with. In one of them at least its last word is whole: "Timor" of "Timor has", "Timorese"."""
    shared = commonprefix(texts)
    if all(_is_letter((text + " ")[len(shared)]) for text in texts):
        shared = "".join(dropwhile(_is_letter, shared[::-1]))[::-1]
    return shared


def _words(text: str) -> list[str]:
    return "".join(char if _is_letter(char) else " " for char in text).split()


def _neighbours(frames: Iterable[Frame]) -> tuple[set[str], set[str]]:
    """The words that stand directly before and after the subject; "" where there is none."""
    left, right = set(), set()
    for before, after in frames:
        left.add(before.split()[-1].strip(EDGES) if before.strip() else "")
        right.add(after.split()[0].strip(EDGES) if after[:1].isspace() and after.strip() else "")
    return left, right


def _only_subject(prompts: Sequence[str]) -> str | None:
    """The subject where there is no other to compare: a name in capitals, if it is clear where it begins and ends."""
    names = [name for name in _names(prompts[0]) if all(_stands_in(name, prompt) for prompt in prompts)]
    longest = max(map(len, names), default=0)
    name, *others = {name for name in names if len(name) == longest} or {""}
    frames = [prompt.partition(name)[::2] for prompt in prompts if name]
    if others or not frames or _words_beside(frames) or UNSPACED.search(prompts[0]):
        return None
    return name if all(len(words) > 1 for words in _neighbours(frames)) else None


def _names(prompt: str) -> list[str]:
    """All runs of words that begin with capitals or digits."""

    def is_name(word):
        first = word.strip(EDGES)[:1]
        return first.isalnum() and not first.islower()

    runs = [list(words) for like_name, words in groupby(prompt.split(), is_name) if like_name]
    parts = (run[i:j] for run in runs for i in range(len(run)) for j in range(i + 1, len(run) + 1))
    return [" ".join(words).strip(EDGES) for words in parts]


def _stands_in(name: str, prompt: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", prompt) is not None
