"""Who may call: keys, hosts, origins, secrets, and tenants that cannot see each other."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image as Pillow

import vita
from tests.serve.running import Running, running
from vita.errors import RequestError
from vita.serve.auth import ClientSecrets, Gate, Tenant, host_name, offered_key
from vita.serve.errors import ApiError
from vita.serve.options import Limits, ServeOptions, is_loopback, read_keys

KEYS = ("first-secret-key", "second-secret-key")
CHAT = "/v1/chat/completions"
ROUTES = ("/v1/models", "/v1/models/default", "/metrics", "/openapi.json", "/nothing")


@pytest.fixture(scope="module")
def keyed(embedded: vita.Vita) -> Iterator[Running]:
    options = ServeOptions(
        port=0, api_keys=KEYS, allow_origins=("https://chat.example.com",), allow_hosts=("vita.example.com",)
    )
    with running(embedded, options) as server:
        yield server


def anonymous(server: Running, method: str, path: str, **more: object) -> httpx.Response:
    return httpx.request(method, server.url + path, trust_env=False, timeout=30, **more)  # type: ignore[arg-type]


class TestKeys:
    def test_every_route_but_health_needs_a_key(self, keyed: Running) -> None:
        for path in ROUTES:
            answer = anonymous(keyed, "GET", path)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key", path
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in (CHAT, "/v1/responses", "/v1/audio/transcriptions", "/v1/completions"):
            assert anonymous(keyed, "POST", path, json={}).status_code == 401
        assert anonymous(keyed, "GET", "/health").json() == {"status": "ok"}
        assert anonymous(keyed, "GET", "/health/").status_code == 200

    def test_any_of_the_keys_opens_and_others_do_not(self, keyed: Running) -> None:
        for key, status in ((KEYS[0], 200), (KEYS[1], 200), (KEYS[0][:-1], 401), (KEYS[0] + "x", 401), ("é", 401)):
            headers = {"Authorization": f"Bearer {key}".encode()}
            assert anonymous(keyed, "GET", "/v1/models", headers=headers).status_code == status
        basic = {"Authorization": f"Basic {KEYS[0]}"}
        assert anonymous(keyed, "GET", "/v1/models", headers=basic).status_code == 401

    def test_a_refused_upload_gets_its_answer(self, keyed: Running) -> None:
        answer = anonymous(keyed, "POST", CHAT, content=b" " * (5 << 20))
        assert answer.status_code == 401 and answer.headers["x-request-id"].startswith("req_")

    def test_one_key_does_not_see_what_another_asked(self, keyed: Running) -> None:
        body = {"messages": [{"role": "user", "content": "A question of the first tenant, of several words."}]}

        def cached(key: str) -> int:
            answer = anonymous(keyed, "POST", CHAT, json=body, headers={"Authorization": f"Bearer {key}"})
            return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

        cached(KEYS[0])
        alone = cached(KEYS[1])  # a prefix of the first one's would be longer than the system text
        assert cached(KEYS[0]) > alone and cached(KEYS[1]) > alone

    def test_one_key_does_not_see_which_image_another_sent(self, keyed: Running, embedded: vita.Vita) -> None:
        """Neither by the tokens that were cached nor by an encoder that had no work to do."""
        data = io.BytesIO()
        Pillow.new("RGB", (80, 60), (12, 200, 77)).save(data, "PNG")
        url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What color is it?"}]
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}

        def asked(key: str) -> tuple[int, int]:
            misses = embedded.stats().encoder_misses
            answer = anonymous(keyed, "POST", CHAT, json=body, headers={"Authorization": f"Bearer {key}"})
            cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
            return int(cached), embedded.stats().encoder_misses - misses

        assert asked(KEYS[0])[1] == 1
        alone = asked(KEYS[1])
        assert alone[1] == 1, "the encoder works again"
        assert asked(KEYS[0])[1] == asked(KEYS[1])[1] == 0 and asked(KEYS[0])[0] > alone[0]

    def test_a_key_is_needed_beyond_loopback(self) -> None:
        for host in ("0.0.0.0", "::", "192.168.1.2", "vita.local"):
            with pytest.raises(RequestError, match=r"^host: .*can be reached from other machines.*VITA_API_KEY"):
                ServeOptions(host=host)
            assert ServeOptions(host=host, api_keys=KEYS).host == host
        assert all(is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"))
        assert not any(is_loopback(host) for host in ("0.0.0.0", "localhost.example.com", "10.0.0.1", ""))

    def test_keys_come_from_the_environment_and_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        file.write_text("# of our team\nkey-number-one\n\n  key-number-two  \n")
        found = read_keys({"VITA_API_KEY": " key-number-one "}, file)
        assert found == ("key-number-one", "key-number-two") and read_keys({}) == ()
        file.write_text("# nothing\n")
        with pytest.raises(RequestError, match="holds no key"):
            read_keys({}, file)
        with pytest.raises(RequestError, match="cannot be read"):
            read_keys({}, tmp_path / "missing")
        for bad in ("short", "with a space", "ключ-ключ-ключ"):
            with pytest.raises(RequestError, match="8 or more characters"):
                ServeOptions(api_keys=(bad,))


class TestHostsAndOrigins:
    @pytest.mark.parametrize(
        "host", ["evil.example.com", "evil.example.com:8000", "127.0.0.1.evil.example", "0x7f.1", ""]
    )
    def test_a_page_that_rebinds_its_name_is_refused(self, served: Running, host: str) -> None:
        answer = served.client.get("/v1/models", headers={"Host": host})
        assert answer.status_code in (400, 403), host
        assert served.client.post(CHAT, headers={"Host": host}, json={}).status_code in (400, 403)

    @pytest.mark.parametrize("host", ["localhost", "LocalHost:8000", "127.0.0.1", "[::1]:8000", "127.0.0.1:1"])
    def test_names_of_this_machine_are_served(self, served: Running, host: str) -> None:
        assert served.client.get("/v1/models", headers={"Host": host}).status_code == 200

    def test_allowed_hosts_are_served(self, keyed: Running) -> None:
        assert keyed.client.get("/v1/models", headers={"Host": "vita.example.com"}).status_code == 200
        assert keyed.client.get("/v1/models", headers={"Host": "other.example.com"}).status_code == 403

    @pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "http://127.0.0.1:1", "file://"])
    def test_pages_of_other_sites_are_refused(self, served: Running, origin: str) -> None:
        for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/health"), ("OPTIONS", CHAT)):
            answer = served.client.request(method, path, headers={"Origin": origin})
            assert answer.status_code == 403 and answer.json()["error"]["code"] == "forbidden"
            assert "access-control-allow-origin" not in answer.headers

    def test_our_own_page_may_call(self, served: Running) -> None:
        assert served.client.get("/v1/models", headers={"Origin": served.url}).status_code == 200

    def test_an_allowed_page_gets_cors_headers_and_no_other_does(self, keyed: Running) -> None:
        origin = "https://chat.example.com"
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        preflight = anonymous(keyed, "OPTIONS", CHAT, headers={"Origin": origin, **asks})
        assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == origin
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in preflight.headers
        answer = keyed.client.get("/v1/models", headers={"Origin": origin})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == origin
        wrong = anonymous(keyed, "GET", "/v1/models", headers={"Origin": origin})
        assert wrong.status_code == 401 and wrong.headers["access-control-allow-origin"] == origin
        other = anonymous(keyed, "OPTIONS", CHAT, headers={"Origin": "https://evil.example.com", **asks})
        assert other.status_code >= 400 and "access-control-allow-origin" not in other.headers

    def test_origins_are_checked_when_the_server_starts(self) -> None:
        for bad in ("chat.example.com", "https://chat.example.com/", "ftp://x", "https://"):
            with pytest.raises(RequestError, match="is not an origin"):
                ServeOptions(allow_origins=(bad,))
        assert ServeOptions(allow_origins=("*", "http://localhost:3000")).allow_origins

    def test_names_of_host_headers(self) -> None:
        assert host_name("[::1]:80") == "::1" and host_name("A.b.:80") == "a.b" and host_name("a@b") == "b"
        assert host_name("[::1") == "" and host_name("") == ""


class TestSecrets:
    def test_a_secret_opens_realtime_only_and_expires(self) -> None:
        now = [1000.0]
        secrets = ClientSecrets(lambda: now[0])
        gate = Gate(ServeOptions(api_keys=KEYS), secrets)
        tenant = gate.tenant({"authorization": f"Bearer {KEYS[0]}"}, "/v1/realtime/client_secrets")
        secret, expires = secrets.issue(tenant, 60)
        assert secret.startswith("ek_") and expires == 1060
        headers = {"sec-websocket-protocol": f"realtime, openai-insecure-api-key.{secret}"}
        assert gate.tenant(headers, "/v1/realtime") == Tenant(tenant.salt, secret=True)
        with pytest.raises(ApiError, match="API key"):
            gate.tenant({"authorization": f"Bearer {secret}"}, "/v1/chat/completions")
        now[0] = 1060
        with pytest.raises(ApiError, match="API key"):
            gate.tenant(headers, "/v1/realtime")

    def test_a_browser_sends_its_key_as_a_subprotocol(self) -> None:
        assert offered_key({"sec-websocket-protocol": f"realtime, openai-insecure-api-key.{KEYS[0]}"}) == KEYS[0]
        assert offered_key({"authorization": "bearer  x "}) == "x" and offered_key({"authorization": "Bearer"}) is None

    def test_unused_secrets_do_not_pile_up(self) -> None:
        secrets = ClientSecrets()
        made = [secrets.issue(Tenant(), 60)[0] for _ in range(1100)]
        assert secrets.find(made[0]) is None and secrets.find(made[-1]) is not None


def test_limits_are_positive() -> None:
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="body_bytes: must be more than 0"):
            Limits(body_bytes=bad)  # type: ignore[arg-type]
