"""What `GET /` shows: the chat page to a browser, a short usage text to curl. And the page's transport, for others."""

from flask import Blueprint, Response, current_app, render_template, request

page = Blueprint("page", __name__)

USAGE = """\
Sluice relays LLM answers token by token, without losing one.

  curl -N {url}stream -d 'prompt=你好'                    Server-Sent Events
  curl -N '{url}stream?format=text' -d prompt=Hi         the text alone
  curl -N {url}stream -H 'Last-Event-ID: <last id seen>'  go on after a cut: nothing lost, nothing paid twice
  curl {url}chat --json '{{"prompt": "Hi"}}'                one JSON answer
  curl {url}runs -d prompt=Hi                            start a run; it tells where to follow and stop it
  curl {url}upstreams                                    what can be asked

A browser gets a chat page at this address.
"""

CONTENT_SECURITY_POLICY = (
    # Everything a page shows came from a model: nothing in it may run, load or send anything. trusted-types 'none'
    # makes the browser refuse innerHTML and its like, should one ever get in.
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@page.get("/")
def index() -> Response:
    """Return the chat page, or the usage text to who does not ask for HTML."""
    if "text/html" in request.headers.get("Accept", ""):
        response = Response(render_template("index.html"))
    else:
        response = Response(USAGE.format(url=request.host_url), content_type="text/plain; charset=utf-8")
    response.vary.add("Accept")
    response.headers["Cache-Control"] = "no-cache"
    return response


@page.get("/client.js")
def client() -> Response:
    """Return the page's transport as an ES module, for pages of other origins too (module imports need CORS)."""
    response = current_app.send_static_file("client.js")
    response.content_type = "text/javascript; charset=utf-8"
    response.headers["Cache-Control"] = "no-cache"  # asked again each time, answered 304: page and relay fit together
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response


@page.after_app_request
def restrict(response: Response) -> Response:
    """Give every page its policy, the answer page too. Its language is the browser's."""
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.vary.add("Accept-Language")
    return response
