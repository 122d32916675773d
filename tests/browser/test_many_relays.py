"""The page in front of two relays that share a Redis: it goes on at the other one, whatever becomes of the first."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.parts import Model
from tests.browser.steps import answer, ask, button, complete, shown
from tests.faults.site import Site, site
from tests.live import Call, Relay, wait_until

NO_SPINNER_AFTER_SECONDS = 15


class Two:
    """The relays, their model and the proxy that takes them in turn."""

    def __init__(self, here: Site, model: Model) -> None:
        self.url = here.proxy.url
        self.model = model
        self._masters = here.masters

    def owner(self) -> Relay:
        """Return the relay that the one run belongs to."""
        (owner,) = (master for master in self._masters if master.counts()["unfinished"])
        return owner

    def other(self) -> Relay:
        """Return the one that only passes it on."""
        (other,) = (master for master in self._masters if not master.counts()["unfinished"])
        return other


@pytest.fixture
def two() -> Iterator[Two]:
    models: list[Model] = []

    def serve(call: Call) -> None:
        models[0].serve(call)

    with site(serve, RETRY_MS="100", UPSTREAM_API_KEY="k", SHUTDOWN_GRACE_SECONDS="20") as here:
        models.append(Model(here.upstream))
        yield Two(here, models[0])
        models[0].forget()
    for master in here.masters:
        master.process.stdout.close()


def test_a_deploy_is_not_noticed(open_page: OpenPage, two: Two) -> None:
    page = open_page(two.url)
    ask(page, "Hi")
    call = two.model.next()
    call.token("before ")
    expect(answer(page)).to_have_text("before")
    owner = two.owner()
    owner.process.terminate()
    for token in ("and ", "meanwhile ", "and after"):
        call.token(token)
        expect(answer(page)).to_contain_text(token.strip())
    call.end()
    complete(page)
    assert shown(page) == "before and meanwhile and after"
    assert len(two.model.calls) == 1
    wait_until(lambda: owner.process.poll() == 0, "it has gone in good order")
    ask(page, "And now?")  # the conversation is there too
    again = two.model.next()
    assert [message["content"] for message in again.messages] == ["Hi", "before and meanwhile and after", "And now?"]
    again.end()
    complete(page)


def test_a_relay_that_only_passed_it_on_may_be_killed(open_page: OpenPage, two: Two) -> None:
    page = open_page(two.url)
    ask(page, "Hi")
    call = two.model.next()
    call.token("before ")
    expect(answer(page)).to_have_text("before")
    two.other().kill()
    page.reload()
    call.token("after")
    call.end()
    complete(page)
    assert shown(page) == "before after"
    assert len(two.model.calls) == 1


def test_a_killed_owner_ends_in_good_order_at_the_other(open_page: OpenPage, two: Two) -> None:
    """What was shown stays; the rest is lost with the upstream's connection, and nobody waits for it."""
    page = open_page(two.url)
    ask(page, "Hi")
    call = two.model.next()
    call.token("before")
    expect(answer(page)).to_have_text("before")
    two.owner().kill()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The answer was interrupted.", timeout=NO_SPINNER_AFTER_SECONDS * 1000)
    assert shown(page) == "before"
    button(page, "Retry").click()
    again = two.model.next()
    again.token("Hello")
    again.end()
    complete(page)
    assert shown(page) == "Hello"
    expect(page.locator(".answer")).to_have_count(1)
