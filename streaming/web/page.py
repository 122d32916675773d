"""The pages: the chat at `GET /` (usage to curl), a run's answer without JavaScript; and the chat's transport."""

import gzip
import secrets
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, render_template, request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException

from streaming.relay.run import Run
from streaming.web import accent
from streaming.web.asking import read_body
from streaming.web.compression import chosen
from streaming.web.errors import tell_refused
from streaming.web.joining import joined_modules
from streaming.web.look import Look, look_of
from streaming.web.relay import current_relay
from streaming.web.visiting import visitor_token
from streaming.wire.ask import AskError, Message
from streaming.wire.errors import Refusal

page = Blueprint("page", __name__)

STATIC = Path(__file__).parents[2] / "static"
REFRESH_SECONDS = 2
COLOUR_KEPT_SECONDS = 86_400

USAGE = """\
Sluice relays LLM answers token by token, without losing one.

  curl -N {url}stream -d 'prompt=你好'                    Server-Sent Events
  curl -N '{url}stream?format=text' -d prompt=Hi         the text alone
  curl -N {url}stream -H 'Last-Event-ID: <last id seen>'  go on after a cut: nothing lost, nothing paid twice
  curl {url}chat --json '{{"prompt": "Hi"}}'                one JSON answer
  curl {url}runs -d prompt=Hi                            start a run; it tells where to follow and stop it
  curl {url}upstreams                                    what can be asked

"""
USAGE_PAGE = "A browser gets a chat page at this address.\n"
USAGE_LOCKED = (
    "Whoever asks needs a key: -H 'Authorization: Bearer <key>'. Following and stopping need the run's id alone.\n"
)


def content_security_policy(embed_origins: tuple[str, ...] = ()) -> str:
    """Return the policy of every page. `embed_origins`: whose pages may show ours in a frame, beside our own.

    Everything a page shows came from a model: nothing in it may run, load or send anything. trusted-types 'none' makes
    the browser refuse innerHTML and its like, should one ever get in. Images are the page's own, and data.
    """
    framers = " ".join(("'self'", *embed_origins))
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        f"form-action 'self'; base-uri 'none'; frame-ancestors {framers}; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


@page.get("/")
def index() -> Response:
    """Return the chat page, or the usage text to who does not ask for HTML."""
    guard = current_relay().guard
    if guard.shows_page and "text/html" in request.headers.get("Accept", ""):
        response = Response(render_template("index.html", embed_origins=current_relay().embed_origins))
    else:
        text = USAGE.format(url=request.host_url) + (USAGE_PAGE if guard.shows_page else USAGE_LOCKED)
        response = Response(text, content_type="text/plain; charset=utf-8")
    response.vary.add("Accept")
    response.headers["Cache-Control"] = "no-cache"
    return response


def answer_page(run: Run) -> Response:
    """Return a run's page for a browser without JavaScript: the conversation up to it. It refreshes itself."""
    answer, question = run.answer(), run.turn.context.messages[-1].text()
    relay = current_relay()
    known = relay.runs.transcript(run.turn.conversation_id, relay.guard.viewer(request))
    response = Response(
        render_template(
            "answer.html",
            answer=answer,
            question=question,
            before=_before(known or [], question, answer.text),
            conversation_id=run.turn.conversation_id if known is not None else None,
            seconds=REFRESH_SECONDS,
        )
    )
    response.headers["X-Run-Id"] = run.id
    response.status_code = answer.status() if answer.end else 202
    return _kept_nowhere(response)


def _before(turns: list[tuple[Message, Message]], question: str, answer: str) -> list[tuple[str, str]]:
    """Return the turns before this one, which is among them only if it ended well."""
    texts = [(asked.text(), answered.text()) for asked, answered in turns]
    for position in reversed(range(len(texts))):
        if texts[position][0].startswith(question) and texts[position][1] == answer:
            return texts[:position]
    return texts


def refused_page(refused: Refusal | AskError) -> Response:
    """Return a page for the current request's form, which was refused; what was written in it is still there."""
    refusal = refused if isinstance(refused, Refusal) else Refusal("bad_request", str(refused))
    tell_refused(refusal)
    form, gone = _sent_form(), refusal.code == "conversation_not_found"
    html = render_template(
        "refused.html",
        refusal=refusal,
        prompt=form.get("prompt", ""),
        conversation_id=None if gone else form.get("conversation_id"),
    )
    return _kept_nowhere(Response(html, refusal.status))


def _sent_form() -> MultiDict[str, str]:
    """Return the current request's form, empty where it did not come whole: to wait for it may be why it is refused."""
    try:
        read_body(request)
        return request.form
    except (Refusal, HTTPException):
        return MultiDict()


def _kept_nowhere(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response


@page.get("/static/chat.js")
def script() -> Response:
    """Return the page's script: static/page.js with the modules that it imports."""
    return _kept_part(_script, "text/javascript; charset=utf-8")


@page.get("/static/chat.css")
def sheet() -> Response:
    """Return the page's stylesheet: the page's own, and that of the answers in it."""
    return _kept_part(_sheet, "text/css; charset=utf-8")


@cache
def _script(*, zipped: bool) -> bytes:
    text = joined_modules(STATIC, "page").encode()
    return gzip.compress(text, mtime=0) if zipped else text


@cache
def _sheet(*, zipped: bool) -> bytes:
    text = b"\n".join((STATIC / name).read_bytes() for name in ("page.css", "answer.css"))
    return gzip.compress(text, mtime=0) if zipped else text


def _kept_part(part: Callable[..., bytes], content_type: str) -> Response:
    """Return a part of the page. Browsers keep it but ask each time: page and relay fit together after a deploy."""
    zipped = chosen(request.accept_encodings, ("gzip",)) is not None
    response = Response(part(zipped=zipped), content_type=content_type)
    if zipped:
        response.headers["Content-Encoding"] = "gzip"
    response.vary.add("Accept-Encoding")
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]


@page.get("/accent.css")
def accent_css() -> Response:
    """Return the stylesheet of `?accent=`, six or three hex digits; empty where it is no such colour."""
    look = look_of(request)
    response = Response(accent.stylesheet(look.accent) if look.accent else "", content_type="text/css; charset=utf-8")
    response.headers["Cache-Control"] = f"public, max-age={COLOUR_KEPT_SECONDS}"
    return response


@page.get("/<any('client.js', 'embed.js'):name>")
def script_for_others(name: str) -> Response:
    """Return what pages of other origins use: the chat's transport as an ES module (those need CORS), or the embed."""
    response = current_app.send_static_file(name)
    response.content_type = "text/javascript; charset=utf-8"
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


@page.app_context_processor
def words() -> dict[str, Any]:
    """Give templates the look of the page and its words, and a key that makes sending a form twice harmless."""
    look: Look = look_of(request)
    return {
        "look": look,
        "texts": look.texts,
        "new_key": secrets.token_urlsafe,
        "visitor_token": visitor_token,
    }


@page.after_app_request
def restrict(response: Response) -> Response:
    """Give every page its policy, the answer page too. Its language is the browser's."""
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = content_security_policy(current_relay().embed_origins)
        # Who holds a run's id may read and stop it. To ourselves it is told: without it a form's Origin would be null.
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.vary.add("Accept-Language")
    return response
