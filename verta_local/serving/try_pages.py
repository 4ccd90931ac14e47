"""Pages for people: the models of a server, and one page a model to try it in a browser; `/openapi.json` for programs.

Nothing that was logged becomes an element: the template escapes it, and the script only ever sets text. Scripts and
styles are files of this server, so the content security policy of all answers holds here too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Blueprint, Response, jsonify, render_template_string, send_from_directory

from verta_local.serving.guard import is_loopback
from verta_local.serving.openapi import describe, example_of, schema_of
from verta_local.serving.routes import PREDICT_PREFIX

if TYPE_CHECKING:
    from verta_local.serving.supervisor import Supervisor

_FOLDER = Path(__file__).parent / "pages"
_FILES = ("try.js", "style.css")


def make_try_pages(supervisor: Supervisor) -> Blueprint:
    """The routes of one supervisor."""
    pages = Blueprint("try_pages", __name__)
    table = supervisor.table

    @pages.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(describe(table.all(), wants_token=not is_loopback(supervisor.host)))

    @pages.get("/")
    def index() -> str:
        return render_template_string(_text("index.html"), endpoints=table.all())

    @pages.get("/try/<path:route>")
    def try_one(route: str) -> tuple[Response | str, int]:
        endpoint = table.get(route)
        if endpoint is None:
            return jsonify(message="no model is deployed under this URL"), 404
        spec = endpoint.program.spec
        api = spec.get("api") or {}
        example = example_of(api.get("input"))
        page = render_template_string(
            _text("try.html"),
            name=spec.get("run_name") or route,
            run_id=spec.get("run_id"),
            url=PREDICT_PREFIX + route,
            state=endpoint.state,
            needs_token=endpoint.token is not None,
            example=json.dumps(example, indent=2, ensure_ascii=False),
            wanted=json.dumps(schema_of(api["input"]), indent=2) if api.get("input") else "",
            given=json.dumps(schema_of(api["output"]), indent=2) if api.get("output") else "",
        )
        return page, 200

    @pages.get("/pages/<name>")
    def file(name: str) -> tuple[Response, int]:
        if name not in _FILES:
            return jsonify(message="no such page"), 404
        return send_from_directory(_FOLDER, name), 200

    return pages


def _text(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")
