"""Pages made with the AI SDK, without a screen: page.mjs in a Node process."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from tests.live import WAIT_SECONDS
from tests.real.servers import HERE, NODE


class Page:
    """One page at a time: `open` begins another. Every command returns the chat's state.

    `status`, `error` (text or None), `messages`; `requests` it has made, `calls` of tools it was told of.
    """

    def __init__(self) -> None:
        # What the package prints about broken connections is no concern of a test that breaks them.
        self._process = subprocess.Popen(
            [NODE, HERE / "page.mjs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._reader = ThreadPoolExecutor(1)

    def do(self, name: str, **fields: Any) -> dict[str, Any]:
        """Run one command and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": name, **fields}) + "\n")
        self._process.stdin.flush()
        line = self._reader.submit(self._process.stdout.readline).result(2 * WAIT_SECONDS)
        assert line, "the page's process has ended"
        answer: dict[str, Any] = json.loads(line)
        assert "failed" not in answer, answer["failed"]
        return answer

    def open(self, transport: str, url: str, id_: str, **fields: Any) -> dict[str, Any]:
        """Begin a page of the relay at `url`; `transport` is "default" or "workflow"."""
        return self.do("open", transport=transport, api=f"{url}/api/chat", id=id_, **fields)

    def ask(self, text: str, **body: Any) -> dict[str, Any]:
        """Ask and wait until the answer is over, for better or worse."""
        self.do("send", text=text, body=body)
        return self.do("settle")

    def read(self, stream: str) -> dict[str, Any]:
        """Return the message that the package's reader makes of a stream, and its complaints."""
        return self.do("read", stream=stream)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._reader.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def text_of(message: dict[str, Any]) -> str:
    """Return a message's text."""
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")
