"""The Debian recipe on a small tree of its packages' layout: who speaks, which split, what is left out."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from audiovq.data.utterance import open_shards, read_manifest, split_of
from audiovq.errors import AudioVQError
from recipes import debian_packages
from recipes.debian_speech.preparation import prepare, read_corrections, read_reserved, select
from recipes.debian_speech.sources import PACKAGES, all_sources
from tests.data.conftest import voice, write

STAMPS = "usr/share/tuxpaint/stamps"
FESTVOX = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
FISH = "usr/share/games/fillets-ng"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Unpacked packages: every voice says something else in every file."""
    root, seed = tmp_path_factory.mktemp("packages"), 0

    def say(path: str, pitch: float = 120.0, rate: int = 16000, seconds: float = 0.6) -> None:
        nonlocal seed
        seed += 1
        write(root / path, voice(seconds, rate, pitch + seed % 7, seed=seed), rate)

    for number in range(30):
        for language in ("fr", "ca", "da"):
            say(f"{STAMPS}/animals/cat{number}_desc_{language}.ogg", rate=44100)
    say(f"{STAMPS}/animals/cat.ogg")  # its cry: no description
    (root / STAMPS / "animals/cat1.txt").write_text("A cat.\nca.utf8=Un gat.\nfr.utf8=Un chat.\n")
    for language in ("cs", "nl"):
        sound = f"{FISH}/sound/city/{language}"
        for name in ("vit-m-ahoj", "vit-v-proc", "vit-hs-klid", "kd-uvod", "vit-x-bum", "rand-1"):
            say(f"{sound}/{name}.ogg", rate=22050)
        lines = [("vit-m-ahoj", "font_small"), ("vit-v-proc", "font_big"), ("vit-hs-klid", "font_statue")]
        lines += [("kd-uvod", "font_white"), ("rand-1", "font_big")]
        script = root / FISH / "script/city" / f"dialogs_{language}.lua"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("".join(f'dialogId("{n}", "{f}", "Hi")\ndialogStr("Ahoj \\"{n}\\".")\n\n' for n, f in lines))
    for number in range(30):
        say(f"{FESTVOX}/wav/ru_{number:04d}.wav")
    for name in ("cs/alpha/a", "en_GB/alpha/a", "en_GB/syllab/ba", "ar/alpha/a-01", "da/alpha/a-0", "hu/alpha/a1"):
        say(f"usr/share/klettres/{name}.ogg", rate=44100)
    for folder in ("sr", "sr@latin", "de"):
        say(f"usr/share/ktuberling/sounds/{folder}/ball.wav")
    (root / "usr/share/ktuberling/sounds/sr@latin/ball.wav").write_bytes(
        (root / "usr/share/ktuberling/sounds/sr/ball.wav").read_bytes()
    )
    return root


@pytest.fixture
def tree(template, tmp_path):
    """A copy of the packages that a test may change."""
    return Path(shutil.copytree(template, tmp_path / "tree"))


def by_id(root) -> dict:
    return {file.id: file for file in all_sources(root)}


def test_speakers_languages_and_texts(tree):
    files = by_id(tree)
    small = files["fillets-cs/city/vit-m-ahoj"]
    assert (small.speaker, small.language, small.text) == ("fillets-cs-small", "cs", 'Ahoj "vit-m-ahoj".')
    assert files["fillets-nl/city/vit-v-proc"].speaker == "fillets-nl-big"
    assert files["fillets-nl/city/rand-1"].speaker == "fillets-nl-big"  # by the subtitle's font
    assert files["fillets-cs/city/vit-hs-klid"].speaker == "fillets-cs-vit-hs"
    assert files["fillets-cs/city/kd-uvod"].speaker == "fillets-cs-kd"
    assert "fillets-cs/city/vit-x-bum" not in files  # an effect: nobody gave it a subtitle
    cat = files["tuxpaint-fr/animals/cat1"]
    assert (cat.speaker, cat.language, cat.text, cat.unseen) == ("tuxpaint-fr", "fr", "Un chat.", False)
    assert files["tuxpaint-ca/animals/cat1"].unseen
    assert files["tuxpaint-fr/animals/cat2"].text is None
    assert files["ktuberling-sr@latin/ball"].speaker == files["ktuberling-sr/ball"].speaker == "ktuberling-sr"
    assert all(file.licence.startswith(("GPL", "CC", "BSD")) for file in files.values())


def test_festvox_has_transcripts_and_phone_times(tree, tmp_path):
    (tree / FESTVOX / "etc").mkdir()
    (tree / FESTVOX / "etc/txt.done.data").write_text('( ru_0003 "Вол+ос, за ухо." )\n( ru_0004 "Она." )\n', "utf-8")
    (tree / FESTVOX / "lab").mkdir()
    ends = [(0.3, "pau"), (0.5, "a"), (0.9, "n"), (1.4, "pau")]
    lines = "".join(f"{end:.5f} 125 {symbol}\n" for end, symbol in ends)
    (tree / FESTVOX / "lab/ru_0003.lab").write_text(f"signal ru_0003\n#\n{lines}")
    sound = np.pad(voice(0.6), (round(0.3 * 16000), round(0.5 * 16000)))
    write(tree / FESTVOX / "wav/ru_0003.wav", sound)
    file = by_id(tree)["festvox-ru/ru_0003"]
    assert (file.speaker, file.language, file.text) == ("festvox-ru", "ru", "Волос, за ухо.")
    assert by_id(tree)["festvox-ru/ru_0005"].phones is None
    prepare(select(all_sources(tree)), tmp_path / "out")
    utterance = next(u for u in open_shards(tmp_path / "out") if u.id == "festvox-ru/ru_0003")
    first = utterance.phones[0][0]  # about 0.1 s of the pause stay at both ends
    assert abs(first - 0.1) < 0.05
    assert [symbol for _, symbol in utterance.phones] == ["pau", "a", "n", "pau"]
    np.testing.assert_allclose([end - first for end, _ in utterance.phones[:3]], [0, 0.2, 0.6], atol=1e-3)
    assert abs(utterance.phones[-1][0] - utterance.seconds) < 1e-3


def test_klettres_has_one_speaker_a_region(tree):
    xml = (
        '<klettres>\n<sound name="Á" file="en_GB/alpha/a.ogg" />\n<sound name="B&amp;A" file="en_GB/syllab/ba.ogg"/>\n'
    )
    (tree / "usr/share/klettres/en_GB/sounds.xml").write_text(xml, "utf-8")
    files = by_id(tree)
    assert {id for id in files if id.startswith("klettres")} == {
        "klettres-cs/alpha/a",
        "klettres-en_GB/alpha/a",
        "klettres-en_GB/syllab/ba",
    }
    letter = files["klettres-en_GB/alpha/a"]
    assert (letter.speaker, letter.language, letter.text) == ("klettres-en_GB", "en", "Á")
    assert files["klettres-en_GB/syllab/ba"].text == "B&A"
    assert files["klettres-cs/alpha/a"].text is None


def test_asterisk_transcripts_and_voices(tmp_path):
    for language in ("en", "es"):
        sounds = tmp_path / f"usr/share/asterisk/sounds/{language}_US_f_Allison"
        for name in ("agent-pass", "beep", "digits/1", "silence/1"):
            (sounds / name).parent.mkdir(parents=True, exist_ok=True)
            (sounds / f"{name}.g722").write_bytes(b"")
        doc = tmp_path / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
        doc.parent.mkdir(parents=True)
        doc.write_bytes(gzip.compress("; Sounds\n\nagent-pass: “Your password: now.”\nbeep: [a tone]\n".encode()))
    files = by_id(tmp_path)
    assert sorted(files) == [f"asterisk-{x}/{n}" for x in ("en", "es") for n in ("agent-pass", "digits/1")]
    assert files["asterisk-en/agent-pass"].text == "Your password: now."
    assert {file.speaker for file in files.values()} == {"asterisk-allison"}


def test_splits_are_disjoint_and_unseen_voices_are_only_unseen(tree, tmp_path):
    prepare(select(all_sources(tree)), tmp_path / "out")
    utterances = open_shards(tmp_path / "out")
    lines = {line["id"]: line for line in read_manifest(tmp_path / "out")}
    assert {u.split for u in utterances} == {"train", "validation", "test", "unseen"}
    assert len({u.id for u in utterances}) == len(utterances)
    assert len({line["sha256"] for line in lines.values()}) == len(utterances)
    for utterance in utterances:
        unseen = utterance.speaker in ("debian_speech/tuxpaint-ca", "debian_speech/tuxpaint-da")
        assert utterance.split == ("unseen" if unseen else split_of(lines[utterance.id]["file"]))
        assert 0.3 < utterance.seconds < 0.8


def test_reserved_files_are_in_no_split(tree, tmp_path):
    sums = [
        debian_packages.sha256_of(by_id(tree)[id].path)
        for id in ("tuxpaint-fr/animals/cat3", "tuxpaint-ca/animals/cat4")
    ]
    (tmp_path / "reserved").write_text("\n".join(sums) + "\n")
    everything = select(all_sources(tree))
    selection = select(all_sources(tree), read_reserved(tmp_path / "reserved"))
    left = {c.file.id for c in everything.candidates} - {c.file.id for c in selection.candidates}
    assert left == {"tuxpaint-fr/animals/cat3", "tuxpaint-ca/animals/cat4"}
    assert selection.left_out["reserved"] == 2


def test_of_doubles_one_stays_in_the_strictest_split(tree):
    names = {split_of(f"cat{n}_desc_fr.ogg"): f"cat{n}_desc_fr.ogg" for n in range(30)}
    assert set(names) == {"train", "validation", "test"}
    folder = tree / STAMPS / "animals"
    for split in ("train", "validation"):
        (folder / names[split]).write_bytes((folder / names["test"]).read_bytes())
    selection = select(all_sources(tree))
    assert selection.left_out["double"] == 3  # and the Serbian ball
    kept = {c.file.path.name: c.split for c in selection.candidates}
    assert kept[names["test"]] == "test"
    assert not {names["train"], names["validation"]} & set(kept)


def test_corrections_relabel_and_drop(tree, tmp_path):
    path = tmp_path / "corrections.json"
    other, noise = "fillets-cs/city/vit-m-ahoj", "ktuberling-de/ball"
    path.write_text(json.dumps({"speakers": {"fillets-cs-third": [other]}, "drop": {"music": [noise]}}))
    kept = {c.file.id: c.file.speaker for c in select(all_sources(tree), corrections=read_corrections(path)).candidates}
    assert kept[other] == "fillets-cs-third"
    assert noise not in kept


def test_the_summary_adds_up_and_samples_are_what_was_recorded(tree, tmp_path):
    selection = select(all_sources(tree))
    silent = next(c.file.path for c in selection.candidates if c.file.id == "ktuberling-de/ball")
    write(silent, np.zeros(9000, np.float32))
    summary = prepare(selection, tmp_path / "out")
    assert summary == json.loads((tmp_path / "out/summary.json").read_text())
    utterances = open_shards(tmp_path / "out")
    assert summary["left_out"] == {"double": 1, "silent": 1}
    assert sum(split["files"] for split in summary["splits"].values()) == len(utterances)
    minutes = sum(sum(speaker["minutes"].values()) for speaker in summary["speakers"].values())
    assert abs(minutes - sum(u.seconds for u in utterances) / 60) < 0.1
    ball = next(u for u in utterances if u.id.startswith("ktuberling-sr")).load()
    recorded = voice(0.6, pitch=120.0)  # the same kind of sound: level within a factor of two
    assert 0.5 < ball.std() / recorded.std() < 2


def test_debs_are_found_and_unpacked(tmp_path, monkeypatch):
    (tmp_path / "ktuberling-data_4%3a22.12.3-1_all.deb").write_bytes(b"no archive")
    (tmp_path / "else_1_all.deb").write_bytes(b"")
    assert list(debian_packages.find_debs(tmp_path, PACKAGES)) == ["ktuberling-data"]
    monkeypatch.setattr(debian_packages.shutil, "which", lambda name: None)
    with pytest.raises(AudioVQError, match="fillets-ng-data-cs"):
        debian_packages.fetch(tmp_path, PACKAGES)
    with pytest.raises(AudioVQError, match="dpkg"):
        debian_packages.unpack([], tmp_path)


def test_what_apt_complains_of_is_passed_on(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 100, "", "E: Unable to locate package ktuberling-data\n")
    monkeypatch.setattr(debian_packages.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(debian_packages.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(AudioVQError, match="Unable to locate") as error:
        debian_packages.fetch(tmp_path, PACKAGES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_reserved, read_corrections])
def test_lists_that_cannot_be_read_are_one_clear_error(tmp_path, read):
    with pytest.raises(AudioVQError):
        read(tmp_path / "none")
