"""Recordings and shards by URL: the same bytes as on disk."""

from __future__ import annotations

import uuid
from contextlib import suppress

import pytest

from audiovq.data.places import Folder, is_url
from audiovq.data.token_sources import list_sources
from audiovq.errors import AudioVQError
from tests.data.tokenizing import content, make_corpus, save_model, tokenize

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory():
    """A URL of a store in memory."""
    yield f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").store.clear()


def check_round_trip(url, tmp_path):
    """Recordings from ``url/in``, shards to ``url/out``: gone on with, like those on disk."""
    corpus, model = make_corpus(tmp_path / "in"), save_model(tmp_path / "model")
    fs, root = fsspec.core.url_to_fs(url)
    fs.put(str(corpus), f"{root}/in", recursive=True)
    expected = tokenize(corpus, tmp_path / "out", model)
    result = tokenize(f"{url}/in", f"{url}/out", model)
    assert result == expected
    names = {name.rsplit("/", 1)[-1] for name in fs.ls(f"{root}/out", detail=False) if "/." not in name}
    assert {name: fs.cat_file(f"{root}/out/{name}") for name in names} == content(tmp_path / "out")
    assert tokenize(f"{url}/in", f"{url}/out", model).n_coded == 0
    fs.rm_file(f"{root}/out/shard-00001.tar")
    assert tokenize(f"{url}/in", f"{url}/out", model).n_coded == 2
    with pytest.raises(AudioVQError, match="started with codebooks 3, not 2"):
        tokenize(f"{url}/in", f"{url}/out", model, 2)
    return fs, root


def test_a_store_by_url(memory, tmp_path):
    check_round_trip(memory, tmp_path)


@pytest.mark.external
def test_s3(tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (("KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
            monkeypatch.setenv(f"AWS_ACCESS_{name}" if name == "KEY_ID" else f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        check_round_trip("s3://bucket", tmp_path)
        with pytest.raises(AudioVQError, match="nowhere"):
            list_sources("s3://nowhere/folder")
    finally:
        server.stop()


def test_urls_that_lead_nowhere_are_refused_in_one_line(memory, tmp_path):
    for url in ("nosuchstore://a/b", f"{memory}/nothing"):
        with pytest.raises(AudioVQError, match=url.split(":")[0]) as error:
            list_sources(url)
        assert "\n" not in str(error.value)
    assert not is_url("C:/a")
    assert not is_url(tmp_path)


def test_nothing_half_written_is_left(memory, tmp_path):
    for place in (memory, tmp_path / "folder"):
        folder = Folder(place)
        with suppress(RuntimeError), folder.writing("a.json") as path:
            path.write_text("half")
            raise RuntimeError
        assert folder.glob("*") == []
        assert folder.size("a.json") is None
        with folder.writing("a.json") as path:
            path.write_text("whole")
        assert (folder.read("a.json"), folder.size("a.json"), folder.glob("*.json")) == ("whole", 5, ["a.json"])
        folder.remove("a.json")
        with pytest.raises(FileNotFoundError):
            folder.read("a.json")
