"""OpenAI's own client at the relay, with one thing that it cannot do elsewhere: go on after a cut, paying once.

pip install openai
python examples/openai_client.py http://127.0.0.1:8000/v1 demo "Hello"
"""

import sys
from urllib.request import urlopen
from uuid import uuid4

from openai import APIConnectionError, OpenAI

base_url, model, question = sys.argv[1:]
client = OpenAI(base_url=base_url, api_key="the relay's, if it asks for one")
run_id, shown = "", 0

try:
    chunks = client.chat.completions.create(
        model=model,  # an upstream's name, or its model's; GET /v1/models tells them
        messages=[{"role": "user", "content": question}],
        stream=True,
        # Without a key the relay stops the model when the connection closes; with one it waits for you to come back.
        extra_headers={"Idempotency-Key": uuid4().hex},
    )
    for chunk in chunks:
        if not run_id:
            run_id = chunk.id
            print(f"run {run_id}", file=sys.stderr)
        for choice in chunk.choices:
            text = choice.delta.content or ""
            print(text, end="", flush=True)
            shown += len(text)
except APIConnectionError:
    if not run_id:
        raise
    print("cut off; the rest comes from the run", file=sys.stderr)
    with urlopen(f"{base_url.removesuffix('/v1')}/runs/{run_id}/events?format=text") as whole:  # noqa: S310
        print(whole.read().decode()[shown:], end="")
print()
