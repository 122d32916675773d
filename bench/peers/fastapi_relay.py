"""The same with FastAPI and httpx, on uvicorn with its fast parts (uvloop, httptools)."""

import json
import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

app = FastAPI()
client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None))


class Ask(BaseModel):
    """What is asked."""

    prompt: str


@app.post("/stream")
async def stream(ask: Ask) -> StreamingResponse:
    """Relay one answer."""
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": ask.prompt}]}

    async def events() -> AsyncIterator[str]:
        async with client.stream("POST", os.environ["UPSTREAM_URL"] + "/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    yield "event: end\ndata: {}\n\n"
                    return
                text = json.loads(line[6:])["choices"][0]["delta"].get("content")
                if text:
                    yield f"data: {json.dumps({'text': text})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
