"""`/openapi.json`, and the page to try a model, in a real browser where one is installed.

The browser is driven by playwright, which may be in another Python (CLIENTS_PYTHON), with the system's Chromium.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CLIENTS_PYTHON = os.environ.get("CLIENTS_PYTHON", sys.executable)
API = {
    "version": "v1",
    "input": {
        "type": "VertaJson",
        "name": "",
        "value": [
            {"type": "VertaString", "name": "text"},
            {
                "type": "VertaList",
                "name": "scores",
                "value": [{"type": "VertaFloat", "name": str(n)} for n in range(3)],
            },
        ],
    },
    "output": {"type": "VertaBool", "name": ""},
}
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>"\'&{{7*7}}'


def test_the_description_has_each_models_routes_and_schemas(server: Any) -> None:
    server.deploy("Echo", api=API, token="secret")
    server.deploy("Echo", run_id="open")
    found = server.request("GET", "/openapi.json").json
    assert found["openapi"] == "3.1.0"
    post = found["paths"]["/api/v1/predict/run-1"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {
        "type": "object",
        "properties": {"text": {"type": "string"}, "scores": {"type": "array", "items": {"type": "number"}}},
        "required": ["text", "scores"],
    }
    assert post["responses"]["200"]["content"]["application/json"]["schema"] == {"type": "boolean"}
    assert {"400", "401", "502", "503"} <= post["responses"].keys()
    assert post["security"] == [{"token": []}]
    assert found["paths"]["/api/v1/predict/open"]["post"]["security"] == []
    assert "/v2/models/run-1/infer" in found["paths"]
    names = [
        method["operationId"] for path in found["paths"].values() for method in path.values() if "operationId" in method
    ]
    assert len(set(names)) == len(names)
    assert "secret" not in json.dumps(found)


def test_the_description_is_valid_openapi(server: Any) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    server.deploy("Echo", api=API, token="secret")
    validator.validate(server.request("GET", "/openapi.json").json)


def test_the_pages_hold_what_was_logged_as_text_only(server: Any) -> None:
    server.deploy("Echo", api=API, token="a-secret-token", run_name=HOSTILE)
    for path in ("/", "/try/run-1"):
        reply = server.request("GET", path)
        text = reply.body.decode()
        assert reply.status == 200 and reply.headers["content-type"].startswith("text/html")
        assert "<img" not in text and "<script>" not in text and "49" not in text
        assert "&lt;img" in text
        assert "a-secret-token" not in text
        assert "onclick" not in text and "style=" not in text
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert server.request("GET", "/try/unknown").status == 404
    assert server.request("GET", "/pages/try.js").headers["content-type"].startswith("text/javascript")
    for name in ("..%2fadmin.py", "try.html", "x"):
        assert server.request("GET", f"/pages/{name}").status == 404


_BROWSE = """
import json, sys
from playwright.sync_api import sync_playwright
chromium, url, token, picture = sys.argv[1:]
seen = {"errors": []}
with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 900, "height": 1000})
    page.on("console", lambda message: seen["errors"].append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen["errors"].append(str(error)))
    page.goto(url)
    seen["title"] = page.title()
    seen["images"] = page.locator("img").count()
    seen["inline scripts"] = page.locator("script:not([src])").count()
    seen["example"] = json.loads(page.input_value("#input"))
    page.fill("#token", "wrong")
    page.click("#send")
    page.wait_for_selector("#result:not([hidden])")
    seen["refused"] = page.inner_text("#status")
    page.fill("#token", token)
    page.fill("#input", json.dumps({"text": "<img src=x onerror=alert(1)>", "scores": [1, 2.5]}))
    page.click("#send")
    page.locator("#status").filter(has_text="200").wait_for()
    seen["answer"] = json.loads(page.inner_text("#output"))
    seen["images after"] = page.locator("img").count()
    seen["curl"] = page.text_content("#curl")
    page.click("details:nth-of-type(1) summary")
    page.screenshot(path=picture, full_page=True)
    page.goto(url.rpartition("/try/")[0] + "/")
    page.screenshot(path=picture.replace(".png", "-index.png"))
    seen["links"] = page.locator("table a").count()
    page.click("table a")
    seen["followed"] = page.url
    seen["evil"] = page.evaluate("async () => { try { await fetch('http://127.0.0.1:9/'); return 'sent' } catch (e) { return 'blocked' } }")
    browser.close()
print(json.dumps(seen))
"""


def test_a_browser_tries_a_model(server: Any, tmp_path: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or subprocess.run([CLIENTS_PYTHON, "-c", "import playwright"], capture_output=True).returncode:
        pytest.skip("no browser, or no playwright, is installed")
    server.deploy("Echo", api=API, token="a-secret-token", run_name=HOSTILE)
    url = f"http://127.0.0.1:{server.port}/try/run-1"
    picture = tmp_path / "page.png"
    command = [CLIENTS_PYTHON, "-c", _BROWSE, chromium, url, "a-secret-token", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["title"].startswith("<img")
    assert seen["images"] == seen["images after"] == seen["inline scripts"] == 0
    assert seen["example"] == {"text": "text", "scores": [0.0, 0.0, 0.0]}
    assert seen["refused"].startswith("401")
    assert seen["answer"] == {"text": "<img src=x onerror=alert(1)>", "scores": [1, 2.5]}
    assert "/api/v1/predict/run-1" in seen["curl"] and "a-secret-token" not in seen["curl"]
    assert (seen["links"], seen["followed"]) == (1, url)
    assert seen["evil"] == "blocked"
    # The refused token and the blocked fetch are errors that a browser tells of; there is no other.
    assert all("401" in error or "127.0.0.1:9" in error or "Content Security" in error for error in seen["errors"])
    if "SCREENSHOTS" in os.environ:
        for each in tmp_path.glob("*.png"):
            shutil.copy(each, os.environ["SCREENSHOTS"])
