"""Shards written on a Ray cluster: byte for byte those of one process, also when a worker is killed."""

from __future__ import annotations

import pytest

from audiovq.data.token_coding import Cluster, Coding, Tell, _connected
from audiovq.errors import AudioVQError
from tests.data.tokenizing import DIED, content, load_and_die_once, make_corpus, save_model, tokenize


class Shards(Tell):
    def __init__(self):
        self.seconds, self.faults, self.bytes = 0.0, [], []

    def shard(self, name, n_items, seconds):
        self.seconds += seconds

    def fault(self, id, reason):
        self.faults.append(id)

    def progress(self, done, total):
        self.bytes.append((done, total))


@pytest.fixture
def ray():
    """A cluster of this machine. Ray gives up where a busy machine takes half a minute to start it."""
    ray = pytest.importorskip("ray")
    for attempt in range(4):
        try:
            with _connected(Cluster(workers=2), Coding(None, 1)):
                yield ray
            return
        except AudioVQError as error:
            if "timed out during startup" not in str(error):
                raise
            if attempt == 3:
                pytest.skip(str(error))


@pytest.mark.external
def test_a_cluster_writes_the_same_shards_and_does_a_killed_workers_again(tmp_path, ray):
    corpus, model = make_corpus(tmp_path / "in"), save_model(tmp_path / "model")
    expected = tokenize(corpus, tmp_path / "one", model)
    heard = Shards()
    url = (tmp_path / "two").as_uri()
    result = tokenize(corpus.as_uri(), url, model, cluster=Cluster(workers=1), load=load_and_die_once, tell=heard)
    assert (tmp_path / "model" / DIED).exists()
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert result.manifest == expected.manifest
    assert (result.n_coded, heard.faults) == (7, ["bert/noise.wav"])
    assert heard.seconds == pytest.approx(3600 * expected.manifest["hours"], abs=0.01)
    assert heard.bytes[-1][0] == heard.bytes[-1][1] > 0
    again = tokenize(corpus.as_uri(), url, model, cluster=Cluster(workers=1), load=None)
    assert (again.n_coded, again.manifest) == (0, result.manifest)


def test_without_ray_one_line_says_so(tmp_path, monkeypatch):
    corpus, model = make_corpus(tmp_path / "in"), save_model(tmp_path / "model")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(AudioVQError, match=r"audiovq\[ray\]"):
        tokenize(corpus, tmp_path / "out", model, cluster=Cluster())
