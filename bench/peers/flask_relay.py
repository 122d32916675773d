"""What most tutorials show: Flask, requests and sseclient-py in a generator, on gunicorn's gevent worker."""

import json
import os

import requests
import sseclient
from flask import Flask, Response, request

app = Flask(__name__)


@app.post("/stream")
def stream() -> Response:
    """Relay one answer."""
    ask = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": request.get_json()["prompt"]}]}

    def events():
        with requests.post(
            os.environ["UPSTREAM_URL"] + "/chat/completions", json=ask, stream=True, timeout=60
        ) as answer:
            for event in sseclient.SSEClient(answer).events():
                if event.data == "[DONE]":
                    yield "event: end\ndata: {}\n\n"
                    return
                text = json.loads(event.data)["choices"][0]["delta"].get("content")
                if text:
                    yield f"data: {json.dumps({'text': text})}\n\n"

    return Response(events(), mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})
