"""Makes docs/images from the running page: `make screenshots`. Somebody else's words, the page's own looks."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.conftest import launched
from tests.browser.parts import Model, relay
from tests.browser.steps import answer, ask
from tests.live import ROOT, Call, Relay, scripted

IMAGES = ROOT / "docs" / "images"
IMAGE_MAX_BYTES = 150_000

RETRY_EN = """\
Retry only what is **safe to repeat**, wait a little longer each time, and add some chance, so that a thousand clients \
do not come back in the same second:

```python
def backoff(failures: int) -> float:
    longest = min(30, 0.5 * 2**failures)
    return longest * random.uniform(0.5, 1)
```

| failures | longest wait |
|---|--:|
| 1 | 1 s |
| 3 | 4 s |
| 6 | 30 s |

- A `POST` is safe to repeat only with an **idempotency key**.
- After a `429`, do what `Retry-After` says.
"""

SSE_ZH = """\
**两者的区别：**

| | SSE | WebSocket |
|---|---|---|
| 方向 | 服务器 → 浏览器 | 双向 |
| 断线重连 | 浏览器自带，用 `Last-Event-ID` 续传 | 自己写 |
| 代理与 CDN | 普通 HTTP，无需配置 | 需要支持 `Upgrade` |

所以逐字输出大模型的回答，用 **SSE** 就够了：

```javascript
const source = new EventSource("/runs/42/events");
source.onmessage = ({ data }) => {
  output.append(JSON.parse(data).text);
};
```

只有当浏览器也要不断向"""

TRIP_ZH = """\
两天的话，可以这样安排：

1. **第一天：西湖**
   - 上午走苏堤，从花港观鱼到曲院风荷 🌿
   - 傍晚在**断桥**看日落
2. **第二天：龙井村**
   - 上午看茶园，*明前茶*在四月初
   - 下午去[中国茶叶博物馆](https://www.teamuseum.cn/)

> 周末人多，**周二到周四**去最好。

要不要我再查一下交通？"""

TRIP_EN = """\
No: the rest of an answer is **kept while you are away**.

1. The relay writes each word down as it comes.
2. Your page knows the last one it has.
3. Back on the net, it asks for *what follows*, and nothing is paid for twice.

Even if you close the tab, the answer"""

ORDER_EN = """\
Sorry about that! You can return an unopened bag within **30 days**:

1. Print the label in *Orders → Return*
2. Drop it at any post office

The refund is on its way as soon as we have it. ☕"""

HOST = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Kestrel Coffee</title>
<style>
  body { margin: 0; font: 17px/1.6 Georgia, "DejaVu Serif", serif; color: #33261d; background: #faf6f0; }
  header { display: flex; gap: 2rem; padding: 1.2rem 3rem; background: #33261d; color: #faf6f0; }
  h1 { text-wrap: balance; }
  main { padding: 2.5rem 3rem; max-width: 28rem; }
  h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 1rem; }
  ul { display: flex; gap: 0.75rem; padding: 0; list-style: none; }
  li { flex: 1; padding: 5.5rem 0.75rem 0.75rem; font-size: 0.9rem;
    border-radius: 12px; background: linear-gradient(#c9a27b 5rem, #fff 0); }
</style>
<header><b>Kestrel Coffee</b><span>Beans</span><span>Brewing</span><span>Orders</span></header>
<main><h1>Roasted on Tuesday, with you on Thursday.</h1>
<p>Small lots from farms that we know by name, roasted in the week you order them.</p>
<ul><li><b>Huila</b><br>plum, cacao</li><li><b>Yirgacheffe</b><br>bergamot</li><li><b>Sumatra</b><br>cedar</li></ul>
</main>
<script src="{relay}/embed.js" data-title="Ask Kestrel" data-accent="#a4552a" data-lang="en" data-theme="light"
  data-open="true"></script>
"""


class Studio:
    """A browser, and a model that says what it is told."""

    def __init__(self, browser: Browser, server: Relay, model: Model, shop: str) -> None:
        self._browser = browser
        self.server = server
        self.model = model
        self.shop = shop

    @contextmanager
    def page(self, width: int, height: int, *, scale: float = 1, **options: object) -> Iterator[Page]:
        """Open an empty page of this size."""
        size = {"width": width, "height": height}
        with self._browser.new_context(viewport=size, device_scale_factor=scale, **options) as context:
            yield context.new_page()

    def converse(self, page: Page, question: str, text: str, *, thought: str = "", ends: bool = True) -> None:
        """Ask and let the answer come."""
        ask(page, question)
        call = self.model.next()
        if thought:
            call.think(thought)
        call.token(text)
        if ends:
            call.end()
            expect(page.locator(".turn.live")).to_have_count(0)

    def take(self, page: Page, name: str) -> None:
        """Write the picture down, once all is painted and coloured."""
        page.mouse.move(1, 1)
        page.wait_for_timeout(500)
        path = IMAGES / f"{name}.png"
        page.screenshot(path=path)
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {size // 1000} KB")
        assert size <= IMAGE_MAX_BYTES, f"{path} is too large"


def take_all(studio: Studio) -> None:
    """Take every picture of docs/images."""
    with studio.page(1000, 720, locale="en-US", color_scheme="light") as page:
        page.goto(studio.server.url)
        studio.converse(page, "How should my service retry failed requests?", RETRY_EN)
        page.locator(".hljs-keyword").first.wait_for()
        studio.take(page, "page-light-en")

    with studio.page(1000, 780, locale="zh-CN", color_scheme="dark") as page:
        page.goto(studio.server.url)
        question = "逐字输出大模型的回答，该用 SSE 还是 WebSocket？"
        studio.converse(page, question, SSE_ZH, thought="先比较两者……", ends=False)
        expect(answer(page)).to_contain_text("不断向")
        page.locator(".hljs-keyword").first.wait_for()
        studio.take(page, "page-dark-zh")

    phone = {"scale": 1.5, "is_mobile": True, "has_touch": True}
    with studio.page(390, 780, locale="zh-CN", color_scheme="light", **phone) as page:
        page.goto(studio.server.url)
        studio.converse(page, "周末去杭州，怎么玩？", TRIP_ZH)
        studio.take(page, "phone-light-zh")

    with studio.page(390, 780, locale="en-US", color_scheme="dark", **phone) as page:
        page.goto(studio.server.url)
        studio.converse(page, "My train goes into a tunnel. Will I lose your answer?", TRIP_EN, ends=False)
        expect(answer(page)).to_contain_text("close the tab")
        page.context.set_offline(True)
        expect(page.locator("#connection")).to_have_attribute("data-state", "offline")
        studio.take(page, "phone-dark-en")

    with studio.page(1000, 720, locale="en-US", color_scheme="light") as page:
        page.goto(studio.shop)
        frame = page.frame_locator("sluice-chat iframe")
        frame.get_by_role("textbox").fill("My beans came late. Can I send them back?")
        frame.get_by_role("textbox").press("Enter")
        call = studio.model.next()
        call.token(ORDER_EN)
        call.end()
        expect(frame.locator(".answer .text")).to_contain_text("on its way")
        expect(frame.locator(".turn.live")).to_have_count(0)
        studio.take(page, "embedded-en")


def main() -> None:
    """Start all that is needed, take the pictures, stop it."""
    IMAGES.mkdir(exist_ok=True)

    def sell(call: Call) -> None:
        page = HOST.replace("{relay}", server.url.replace("127.0.0.1", "relay.test"))
        call.answer(200, page.encode(), "Content-Type: text/html")

    with scripted(lambda call: model.serve(call)) as upstream, scripted(sell) as host:
        model = Model(upstream)
        shop = f"http://shop.test:{host.port}"
        with relay(**model.settings(), EMBED_ORIGINS=shop) as server:
            with sync_playwright() as playwright, launched(playwright) as browser:
                take_all(Studio(browser, server, model, shop))
        model.forget()


if __name__ == "__main__":
    main()
