"""Addresses, headers, and what the page loads."""

from __future__ import annotations

import re

import pytest

from audiovq.errors import AudioVQError
from audiovq.web import server


class TestAddress:
    def test_a_port_that_is_taken(self):
        with (
            server.listen("127.0.0.1", 0) as sock,
            pytest.raises(AudioVQError, match=r"cannot listen on 127\.0\.0\.1 port \d+: address already in use"),
        ):
            server.listen("127.0.0.1", sock.getsockname()[1])

    @pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
    def test_an_address_of_nobody(self, host):
        with pytest.raises(AudioVQError, match=host):
            server.listen(host, 0)

    def test_which_addresses_are_local(self):
        assert all(server.is_local(host) for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"))
        assert not any(server.is_local(host) for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"))


@pytest.fixture
def client(pitched):
    pytest.importorskip("gradio", reason="the extra web is not installed")
    from starlette.testclient import TestClient

    application = server.make_application(pitched, None, 10, "127.0.0.1")
    return TestClient(application, base_url="http://127.0.0.1:7860")


class TestPage:
    def test_nothing_comes_from_elsewhere(self, client):
        answer = client.get("/")
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == server.POLICY
        assert not re.search(r"https?:|\*", server.POLICY)
        loaded = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(https?:[^"]+)"', answer.text)
        assert [url for url in loaded if not url.startswith("http://127.0.0.1:7860")] == []

    def test_no_documents_of_the_interface(self, client):
        assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404

    def test_another_sites_name_gets_no_answer(self, client):
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400
        assert client.get("/", headers={"host": "localhost:7860"}).status_code == 200

    def test_large_uploads_are_refused(self, client):
        most = 10 * 400_000 + (1 << 20)
        for size, expected in ((1000, 200), (most + 1, 413)):
            answer = client.post("/gradio_api/upload", files={"files": ("a.wav", bytes(size))})
            assert answer.status_code == expected

    def test_files_of_the_machine_are_not_served(self, client, tmp_path):
        (tmp_path / "secret").write_text("secret")
        answer = client.get(f"/gradio_api/file={tmp_path / 'secret'}")
        assert answer.status_code in (403, 404)
