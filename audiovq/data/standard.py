"""VCTK, LibriSpeech and LJSpeech in their own layouts.

torchaudio.datasets knows the layouts and the transcripts; samples are read by libsndfile, since torchaudio's own
reading needs a further package. torchaudio is imported here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from audiovq.data.decode import FileReader, seconds_of
from audiovq.data.utterance import Utterance, split_of
from audiovq.errors import AudioVQError

LIBRISPEECH_SUBSETS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "validation": ("dev-clean", "dev-other"),
    "test": ("test-clean", "test-other"),
}


def _datasets() -> ModuleType:
    try:
        import torchaudio.datasets
    except Exception as error:  # beside another build of torch it fails with whatever its loader met
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AudioVQError(
            f"this corpus needs torchaudio, which does not import here ({reason}): pip install 'audiovq[corpora]'"
        ) from None
    return torchaudio.datasets


def _index(make: Callable[[], Any], what: str, root: Path) -> Any:
    """What ``make`` makes of torchaudio's dataset, or one clear error."""
    try:
        return make()
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AudioVQError(f"no {what} in {root} ({reason}): give the folder that it was unpacked in as root") from None


def _utterances(
    rows: Iterable[tuple[Path, str, str | Callable[[], str]]],
    corpus: str,
    licence: str,
    split: str | None,
    split_for: Callable[[Path, str], str],
) -> list[Utterance]:
    """Utterances of (path, speaker, text) rows; only those of the split are looked at closer."""
    utterances = []
    for path, speaker, text in rows:
        part = split_for(path, speaker)
        if split is not None and part != split:
            continue
        utterances.append(
            Utterance(
                id=f"{corpus}/{path.stem}",
                speaker=f"{corpus}/{speaker}",
                language="en",
                text=(text if isinstance(text, str) else text()).strip() or None,
                source=corpus,
                licence=licence,
                split=part,
                seconds=seconds_of(path),
                reader=FileReader(str(path)),
            )
        )
    return utterances


def open_vctk(root: Path, split: str | None = None, mic: str = "mic2", unseen: Sequence[str] = ()) -> list[Utterance]:
    """VCTK 0.92: ``root/VCTK-Corpus-0.92/{txt,wav48_silence_trimmed}``. Split by `split_of` the file names.

    Args:
        root: the folder that holds ``VCTK-Corpus-0.92``.
        split: one of `audiovq.data.corpora.SPLITS`, or None for all.
        mic: "mic1" or "mic2".
        unseen: speakers ("p225") to keep for the split "unseen".

    Raises:
        AudioVQError: when the corpus is not there, or torchaudio does not import.
    """
    datasets = _datasets()
    dataset = _index(lambda: datasets.VCTK_092(str(root), mic_id=mic), "VCTK 0.92", root)
    audio, texts = Path(dataset._audio_dir), Path(dataset._txt_dir)

    def rows() -> Iterable[tuple[Path, str, Callable[[], str]]]:
        for speaker, number in dataset._sample_ids:
            path = audio / speaker / f"{speaker}_{number}_{mic}.flac"
            if path.is_file():  # some microphones have gaps
                yield path, speaker, (texts / speaker / f"{speaker}_{number}.txt").read_text

    return _utterances(
        rows(), "vctk", "CC-BY-4.0", split, lambda path, who: "unseen" if who in unseen else split_of(path.name)
    )


def open_librispeech(
    root: Path, split: str | None = None, subsets: Mapping[str, Sequence[str]] | None = None
) -> list[Utterance]:
    """LibriSpeech: ``root/LibriSpeech/{train-clean-100,dev-clean,...}``, split as its authors did.

    Args:
        root: the folder that holds ``LibriSpeech``.
        split: "train", "validation" (the dev sets), "test", or None for all.
        subsets: the corpus's subsets that make up each split; by default those that are there.

    Raises:
        AudioVQError: when a named subset, or any subset of the split, is not there, or torchaudio does not import.
    """
    datasets = _datasets()
    folder = root / "LibriSpeech"
    chosen = subsets if subsets is not None else LIBRISPEECH_SUBSETS
    parts = [part for part in chosen if split in (None, part)]
    names = [(part, name) for part in parts for name in chosen[part]]
    if subsets is None:
        present = [(part, name) for part, name in names if (folder / name).is_dir()]
        if names and not present:
            raise AudioVQError(
                f"no LibriSpeech in {root}: expected one of {', '.join(n for _, n in names)} in {folder}"
            )
        names = present

    def read(part: str, name: str) -> list[Utterance]:
        dataset = datasets.LIBRISPEECH(str(root), url=name)
        metadata = (dataset.get_metadata(index) for index in range(len(dataset)))
        rows = ((folder / row[0], str(row[3]), row[2]) for row in metadata)
        return _utterances(rows, "librispeech", "CC-BY-4.0", part, lambda path, speaker: part)

    return _index(lambda: [u for part, name in names for u in read(part, name)], "LibriSpeech", root)


def open_ljspeech(root: Path, split: str | None = None) -> list[Utterance]:
    """LJSpeech 1.1: ``root/LJSpeech-1.1/{metadata.csv,wavs}``, one voice. Split by `split_of` the file names.

    Raises:
        AudioVQError: when the corpus is not there, or torchaudio does not import.
    """
    datasets = _datasets()
    dataset = _index(lambda: datasets.LJSPEECH(str(root)), "LJSpeech 1.1", root)
    rows = ((Path(dataset._path) / f"{row[0]}.wav", "lj", row[-1]) for row in dataset._flist)
    return _utterances(rows, "ljspeech", "public domain", split, lambda path, who: split_of(path.name))
