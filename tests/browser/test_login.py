"""Login at an OpenID Connect provider: a small one of the tests' own, over HTTP on this machine, with signed tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from tests.browser.conftest import Server, free_port, idle, serve

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytest.importorskip("authlib", reason="Authlib is not installed")
hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes", reason="cryptography is not installed")

CLIENT, SECRET = "cxnet", "of the tests"


def _segment(value: bytes | dict[str, Any]) -> str:
    raw = json.dumps(value).encode() if isinstance(value, dict) else value
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _segment(value.to_bytes((value.bit_length() + 7) // 8, "big"))


class Provider(ThreadingHTTPServer):
    """Discovery, authorisation code flow, and tokens signed with RS256; `who` decides who is let in."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa

        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.asked: dict[str, dict[str, str]] = {}
        self.forged = False

    def token(self, nonce: str) -> str:
        from cryptography.hazmat.primitives.asymmetric import padding

        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "sub": "reader-1", "email": "reader@example.org", "nonce": nonce}
        signed = f"{_segment({'alg': 'RS256', 'kid': 'one', 'typ': 'JWT'})}."
        signed += _segment({**claims, "iat": now, "exp": now + 600})
        key = self.other if self.forged else self.key
        return f"{signed}.{_segment(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


class _Answers(BaseHTTPRequestHandler):
    server: Provider

    def log_message(self, *_: Any) -> None:
        pass

    def _json(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        asked, provider = urlsplit(self.path), self.server
        if asked.path == "/.well-known/openid-configuration":
            ends = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
            told = {"issuer": provider.url, **{name: provider.url + path for name, path in ends.items()}}
            self._json(
                {**told, "response_types_supported": ["code"], "id_token_signing_alg_values_supported": ["RS256"]}
            )
        elif asked.path == "/keys":
            public = provider.key.public_key().public_numbers()
            key = {
                "kty": "RSA",
                "use": "sig",
                "alg": "RS256",
                "kid": "one",
                "n": _number(public.n),
                "e": _number(public.e),
            }
            self._json({"keys": [key]})
        else:  # /authorize: whoever comes is let in
            query = {name: values[0] for name, values in parse_qs(asked.query).items()}
            assert query["client_id"] == CLIENT and query["response_type"] == "code" and "openid" in query["scope"]
            code = hashlib.sha256(query["state"].encode()).hexdigest()
            provider.asked[code] = query
            self.send_response(302)
            self.send_header(
                "Location", f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
            )
            self.end_headers()

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        basic = base64.b64decode(self.headers.get("Authorization", "Basic ").split()[-1]).decode()
        assert f"{CLIENT}:{SECRET}" in (basic, ":".join(form.get(n, [""])[0] for n in ("client_id", "client_secret")))
        query = self.server.asked.pop(form["code"][0])
        token = self.server.token(query.get("nonce", ""))
        self._json({"access_token": "not used", "token_type": "Bearer", "expires_in": 600, "id_token": token})


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    found = Provider()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture(scope="module")
def guarded(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The dashboard below a base path, with login required."""
    folder, port = tmp_path_factory.mktemp("login"), free_port()
    base = f"http://127.0.0.1:{port}/cxnet"
    auth = {
        "redirect_uri": f"{base}/oauth2callback", "cookie_secret": "0123456789abcdef" * 4, "client_id": CLIENT,
        "client_secret": SECRET, "server_metadata_url": f"{provider.url}/.well-known/openid-configuration",
    }  # fmt: skip
    secrets: Path = folder / "secrets.toml"
    secrets.write_text("[auth]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in auth.items()), "utf-8")
    options = ("--secrets.files", str(secrets), "--server.baseUrlPath", "cxnet")
    with serve(folder, *options, port=port, CXNET_LOGIN="required") as found:
        yield found


def opened(browser: Any, url: str) -> Any:
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.goto(url)
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    idle(page)
    return page


def test_log_in_and_out(browser: Any, guarded: Server, provider: Provider) -> None:
    page = opened(browser, f"{guarded.url}/runs")  # a link does not lead past the login
    expect(page.get_by_test_id("stSidebarNav")).to_have_count(0)
    expect(page.get_by_text("covid-cxnet")).to_have_count(0)
    page.get_by_role("button", name="Log in").click()
    page.get_by_test_id("stFileUploader").wait_for()
    assert page.url.startswith(guarded.url)
    assert not provider.asked, "the code was not exchanged"
    page.goto(f"{guarded.url}/about")  # the cookie is enough from now on
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    idle(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    page.context.close()
    log = guarded.log.read_text()
    assert "reader@example.org" not in log and SECRET not in log and "Traceback" not in log


def test_a_forged_token_opens_nothing(browser: Any, guarded: Server, provider: Provider) -> None:
    page = opened(browser, guarded.url)
    provider.forged = True
    try:
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/cxnet/**")
        page.wait_for_timeout(1000)
        page.goto(guarded.url)
        expect(page.get_by_role("button", name="Log in")).to_be_visible()
        expect(page.get_by_test_id("stFileUploader")).to_have_count(0)
    finally:
        provider.forged = False
        page.context.close()
