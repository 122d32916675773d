"""What becomes of a Dify answer's text: appended, replaced by moderation, repeated by agents, cut inside characters."""

from streaming.wire.events import Event, Reasoning, Replace, Token
from streaming.wire.jsontext import SurrogateJoiner


class AnswerText:
    """The text of one answer. `any` says whether there was some; `moderated` whether it was ever replaced."""

    def __init__(self) -> None:
        self.any = False
        self.moderated = False
        self._surrogates = SurrogateJoiner()
        self._agent_text: list[str] | None = None  # what a (New) Agent app has streamed so far
        self._replacement: str | None = None  # moderation's text, while it is the whole answer

    def append(self, text: str) -> list[Event]:
        """Return the events for more text."""
        text = self._surrogates.push("answer", text)
        if not text:
            return []
        self.any = True
        self._replacement = None
        return [Token(text=text)]

    def message(self, answer: str) -> list[Event]:
        """Return the events of a `message`: more text, but the whole answer where an agent has streamed before.

        New Agent apps close with one `message` that repeats everything.
        """
        if self._agent_text is None:
            return self.append(answer)
        streamed = "".join(self._agent_text)
        self._surrogates.flush("answer")  # the repetition has the whole character
        if answer in {"", streamed}:  # a last message without text is normal, and wipes nothing
            return []
        if answer.startswith(streamed):
            return self.agent_message(answer[len(streamed) :])
        return self._replace_by(answer)

    def agent_message(self, answer: str) -> list[Event]:
        """Return the events of an `agent_message`: more text."""
        if self._agent_text is None:
            self._agent_text = []
        events = self.append(answer)
        self._agent_text += [event.text for event in events if isinstance(event, Token)]
        return events

    def moderate(self, text: str) -> list[Event]:
        """Return the events of a replacement by moderation, which 0.15.3 sends twice."""
        if text == self._replacement:
            return []
        self.moderated = True
        self._replacement = text
        return self._replace_by(text)

    def _replace_by(self, text: str) -> list[Event]:
        self._surrogates.flush("answer")
        text = self._surrogates.push("answer", text) + self._surrogates.flush("answer")
        self.any = True
        if self._agent_text is not None:
            self._agent_text = [text]
        return [Replace(text=text)]

    def think(self, text: str) -> list[Event]:
        """Return the events for more thinking."""
        text = self._surrogates.push("reasoning", text)
        return [Reasoning(text=text)] if text else []

    def finish(self) -> list[Event]:
        """Return what is left: half a character that waits for its other half will never get it."""
        thought, text = self._surrogates.flush("reasoning"), self._surrogates.flush("answer")
        return [*([Reasoning(text=thought)] if thought else []), *([Token(text=text)] if text else [])]
