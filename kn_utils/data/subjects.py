"""Which subject do prompts ask about? ParaRel's files do not say.

The prompts of one wording, over all facts of a relation, share all but the subject. So the subject is what differs
between them. What stands beside it in *every* wording and *every* fact may belong to either: "São" in a file of São
Paulo and São Tomé. Then nothing is guessed.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from os.path import commonprefix

MASK = "[MASK]"
MANY = 50  # subjects; so many have no beginning or end in common
# Thai, Lao, Burmese, Khmer, kana and Chinese characters are written without spaces; Korean joins particles to names.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
EDGES = " .,:;!?\"'()"
Frame = tuple[str, str]  # the texts before and after the subject in one wording


def infer_subjects(bags: Sequence[Sequence[str]]) -> list[str | None]:
    """The subject of each fact of one relation.

    Args:
        bags: the prompts of each fact, in the same order of wordings.

    Returns:
        One per fact; None where it cannot be told. With fewer than 50 subjects, a lower-case word beside them in every
        prompt counts as the wording's, unless the subjects are lower-case themselves.
    """
    if len({tuple(prompts) for prompts in bags}) == 1:
        return [_only_subject(bags[0])] * len(bags)
    wordings = [{prompts[k] for prompts in bags if len(prompts) > k} for k in range(max(map(len, bags)))]
    frames = [_frame(wording) for wording in wordings]
    if len(wordings[0]) >= MANY:
        return _cut_all(bags, frames)
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
    return re.search(r"^(.*\s)?", before, re.DOTALL).group(), re.search(r"(\W.*)?$", after, re.DOTALL).group()


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
    left, right = _neighbours(frame for frame in frames if frame)
    words = [words.pop() for words in (left, right) if len(words) == 1]
    return any(word[:1].isalnum() and (lower_case or not word[0].islower()) for word in words)


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
    left, right = _neighbours(prompt.partition(name)[::2] for prompt in prompts if name)
    told = not others and len(left) > 1 and len(right) > 1 and not UNSPACED.search(prompts[0])
    return name if told else None


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
