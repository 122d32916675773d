"""What `GET /` shows: the chat page to a browser, a short usage text to curl."""

from flask import Blueprint, Response, render_template, request

page = Blueprint("page", __name__)

USAGE = """\
Sluice relays LLM answers token by token, without losing one.

  curl -N {url}stream -d 'prompt=你好'                    Server-Sent Events
  curl -N {url}stream?format=text -d prompt=Hi           the text alone
  curl -N {url}stream -H 'Last-Event-ID: <last id seen>'  go on after a cut: nothing lost, nothing paid twice
  curl {url}chat --json '{{"prompt": "Hi"}}'                one JSON answer
  curl {url}runs -d prompt=Hi                            start a run; it tells where to follow and stop it
  curl {url}upstreams                                    what can be asked

A browser gets a chat page at this address.
"""


@page.get("/")
def index() -> Response:
    """Return the chat page, or the usage text to who does not ask for HTML."""
    if "text/html" in request.headers.get("Accept", ""):
        return Response(render_template("index.html"))
    return Response(USAGE.format(url=request.host_url), content_type="text/plain; charset=utf-8")
