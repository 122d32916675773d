"""An answer with requests and sseclient-py; whatever happens to the connection, nothing is lost and nothing paid twice.

pip install requests sseclient-py
python examples/python_sse.py http://127.0.0.1:8000 "Hello"
"""

import json
import sys
import time
from uuid import uuid4

import requests
import sseclient
from urllib3.exceptions import HTTPError

relay, question = sys.argv[1:]
# The key makes the first request safe to repeat; from the first event on, its id says where to go on.
headers = {"Accept": "text/event-stream", "Idempotency-Key": uuid4().hex}


def events():
    """Yield type and fields of each event once, over as many connections as it takes."""
    while True:
        try:
            ask = {"prompt": question}
            with requests.post(f"{relay}/stream", json=ask, headers=headers, stream=True, timeout=30) as response:
                if response.status_code >= 500:  # a router, or a relay that is full
                    raise requests.ConnectionError(f"HTTP {response.status_code}")
                if response.status_code >= 400:
                    sys.exit(response.json()["error"]["message"])
                for event in sseclient.SSEClient(arriving(response)).events():
                    headers["Last-Event-ID"] = event.id
                    yield event.event, json.loads(event.data)
                    if event.event == "end":
                        return
        except (requests.ConnectionError, requests.Timeout, HTTPError):
            time.sleep(1)


def arriving(response):
    """Yield bytes as they come; iterating over a response would wait for blocks. No body ends before its `end`."""
    while data := response.raw.read1(65536, decode_content=True):
        yield data
    raise requests.ConnectionError("cut off")


for name, fields in events():
    if name == "message":
        print(fields["text"], end="", flush=True)
    elif name == "replace":  # moderation: what came before is void
        print(f"\n{fields['text']}", end="", flush=True)
    elif name == "end":
        print()
        if fields["reason"] != "done":
            sys.exit(fields["error"]["message"] if fields["error"] else fields["reason"])
