"""What a person does on the page, and where it shows what came of it."""

from playwright.sync_api import Locator, Page, expect


def ask(page: Page, prompt: str) -> None:
    page.get_by_role("textbox").fill(prompt)
    page.get_by_role("textbox").press("Enter")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def answer(page: Page) -> Locator:
    return page.locator(".answer .text").last


def connection(page: Page) -> Locator:
    return page.locator("#connection")


def announced(page: Page) -> Locator:
    return page.get_by_role("status")


def complete(page: Page) -> None:
    """Wait for the end of an answer that ended well."""
    expect(announced(page)).to_contain_text("Answer complete.")
    expect(button(page, "Send")).to_be_visible()


def shown(page: Page) -> str:
    """Return the last answer's text to the last character."""
    return answer(page).text_content() or ""
