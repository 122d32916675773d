"""What redis-cli tells: few commands, few connections, and nothing left behind."""

import gevent
import pytest
import requests

from tests.faults.site import Paced, site
from tests.live import WAIT_SECONDS, Call, wait_until
from tests.relay.support import DONE, FINISH, token_chunk

pytestmark = pytest.mark.timeout(150)

STREAMS = 100
COMMANDS_PER_TOKEN = 0.2
CONNECTIONS_PER_WORKER = 12


class Bursts(Paced):
    """50 tokens a second, ten at a time: one at a time would be the test's own processor time."""

    def __call__(self, call: Call) -> None:
        call.start()
        for n in range(0, self.count, 10):
            call.chunk(b"".join(token_chunk(f"{number}词 ") for number in range(n, n + 10)))
            gevent.sleep(self.seconds * 10)
        call.chunk(FINISH + DONE)
        call.finish()


def test_few_commands_few_connections_and_nothing_left_behind() -> None:
    script = Bursts(count=250, seconds=0.02)
    with site(script, RUN_TTL_SECONDS="2", CONVERSATION_TTL_SECONDS="2") as here:
        before = here.redis.commands()

        def ask(n: int) -> str:
            answer = requests.post(here.masters[n % 2].url + "/chat", json={"prompt": "hi"}, timeout=4 * WAIT_SECONDS)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["text"])

        asking = [gevent.spawn(ask, n) for n in range(STREAMS)]
        gevent.sleep(2)
        with here.redis.client() as client:
            kinds = [each["flags"] for each in client.client_list()]
            assert client.info("clients")["blocked_clients"] == 0
        assert sum("P" in flags for flags in kinds) == len(here.masters)  # one subscription each
        assert len(kinds) <= CONNECTIONS_PER_WORKER * len(here.masters) + 1
        texts = [each.get() for each in asking]
        assert texts == [script.text] * STREAMS
        commands = here.redis.commands() - before
        print(f"{commands} commands for {STREAMS * script.count} tokens")
        assert commands / (STREAMS * script.count) <= COMMANDS_PER_TOKEN
        for master in here.masters:
            assert master.stop() == 0
        wait_until(lambda: here.redis.keys() == [], "every key has expired")
