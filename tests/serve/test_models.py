"""Models, health, metrics, and the shape of errors for everything else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vita
from tests.serve.running import Running, running


def test_the_model_is_listed_and_found_by_every_name(served: Running) -> None:
    listed = served.client.get("/v1/models").json()
    assert listed["object"] == "list" and len(listed["data"]) == 1
    model = listed["data"][0]
    assert model["id"] == "default" and model["object"] == "model" and isinstance(model["created"], int)
    assert model["owned_by"] and model["name"] and model["max_model_len"] == 4096
    for name in ("default", "vita"):
        assert served.client.get(f"/v1/models/{name}").json() == model
    missing = served.client.get("/v1/models/some-org/some-model")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_a_folder_is_called_by_its_last_part(mini_model: vita.Vita) -> None:
    with running(mini_model) as served:
        name = served.client.get("/v1/models").json()["data"][0]["id"]
        assert name == "mini_ckpt" and served.client.get(f"/v1/models/{name}").status_code == 200
        assert "goldens" not in served.client.get("/v1/models").text


@pytest.mark.parametrize("path", ["/v1/models/", "/health/", "/v1/models/default/"])
def test_a_trailing_slash_is_tolerated(served: Running, path: str) -> None:
    assert served.client.get(path).status_code == 200


def test_head_and_options_are_no_faults(served: Running) -> None:
    for path in ("/health", "/v1/models", "/metrics", "/nothing", "/v1/chat/completions"):
        head, options = served.client.head(path), served.client.options(path)
        assert head.status_code < 500 and head.content == b"" and options.status_code < 500
    assert served.client.head("/health").status_code == 200


def test_unknown_routes_and_methods_have_openais_shape(served: Running) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404), ("POST", "/v1/completions", 404), ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405), ("POST", "/v1/embeddings", 404),
    ):  # fmt: skip
        answer = served.client.request(method, path)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_every_answer_has_an_id_and_safe_headers(served: Running) -> None:
    ids = set()
    for path in ("/health", "/nothing"):
        headers = served.client.get(path, headers={"X-Request-Id": "mine"}).headers
        ids.add(headers["x-request-id"])
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
    assert len(ids) == 2 and "mine" not in ids


def test_metrics_count_requests_and_tokens(served: Running) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    before, _ = metrics(served), served.client.post("/v1/chat/completions", json=body)
    after = metrics(served)
    route = 'vita_http_requests_total{route="/v1/chat/completions",status="200"}'
    assert after[route] == before.get(route, 0) + 1
    assert after["vita_engine_completion_tokens_total"] == before["vita_engine_completion_tokens_total"] + 4
    assert after["vita_time_to_first_token_seconds_count"] == before["vita_time_to_first_token_seconds_count"] + 1
    assert after["vita_engine_healthy"] == 1 and after["vita_engine_kv_budget"] > 0
    assert any(name.startswith("vita_engine_first_token_seconds{") for name in after)


def metrics(served: Running) -> dict[str, float]:
    answer = served.client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return {m[1]: float(m[2]) for m in re.finditer(r"^(vita_\S+) (\S+)$", answer.text, re.MULTILINE)}


def test_health_says_when_requests_are_not_taken(served: Running) -> None:
    served.server.state = "draining"
    try:
        answer = served.client.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
        refused = served.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]})
        assert refused.status_code == 503 and refused.headers["retry-after"]
    finally:
        served.server.state = "ready"
    assert served.client.get("/health").status_code == 200


def test_a_request_larger_than_the_memory_is_the_clients_fault(mini: Path) -> None:
    with (
        vita.load(mini / "mini_ckpt", dtype="float32", device="cpu", kv_budget=300 * 384) as model,
        running(model) as r,
    ):
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2000}
        answer = r.client.post("/v1/chat/completions", json=body)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["code"] == "request_too_large", answer.text
        assert error["param"] == "max_completion_tokens" and error["message"].startswith("max_completion_tokens: ")
        assert "retry-after" not in answer.headers


def test_an_engine_that_has_failed_is_503_without_its_reason(embedded: vita.Vita, served: Running) -> None:
    core = embedded.engine.core
    core.failure = RuntimeError("a secret reason")
    try:
        body = {"messages": [{"role": "user", "content": "Hello"}]}
        answer, health = served.client.post("/v1/chat/completions", json=body), served.client.get("/health")
    finally:
        core.failure = None
    assert answer.status_code == 503 and answer.headers["retry-after"] and "secret" not in answer.text
    assert (health.status_code, health.json()) == (503, {"status": "failed"})
    assert served.client.post("/v1/chat/completions", json=body).status_code == 200
