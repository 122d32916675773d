/* One tag puts the chat on any page; docs/embed.md tells how. Whoever removes the element removes all of it. */
(() => {
  const TAG = "sluice-chat";
  const READY_MS = 5000; // after the frame's load; a page that was refused a frame never reports
  const script = document.currentScript;
  const base = new URL(".", script.src);
  const TEXTS = { en: ["Open chat", "Close chat", "Chat"], zh: ["打开对话", "关闭对话", "对话"] };
  const PASSED_ON = ["title", "lang", "theme", "accent", "greeting"];

  const CSS = `
    :host { all: initial !important; position: fixed !important; z-index: 2147483000 !important;
      inset: auto 20px 20px auto !important; }
    :host([data-position="left"]) { inset: auto auto 20px 20px !important; }
    button { width: 56px; height: 56px; border: 2px solid transparent; border-radius: 50%; cursor: pointer;
      background: var(--accent, #0b63bd); box-shadow: 0 4px 16px #0004; }
    button:focus-visible { outline: 3px solid Highlight; outline-offset: 3px; }
    svg { width: 26px; fill: none; stroke: #fff; stroke-width: 2; vertical-align: middle; }
    iframe { position: absolute; bottom: 68px; right: 0; width: min(400px, 100vw - 40px);
      height: min(640px, 100dvh - 108px); border: 0; border-radius: 16px; box-shadow: 0 8px 40px #0005; }
    :host([data-position="left"]) iframe { right: auto; left: 0; }
    iframe[hidden] { display: block; visibility: hidden; }
    @media (max-width: 480px) { iframe { position: fixed; inset: 0; width: 100vw; height: 100dvh; border-radius: 0; } }`;

  class Chat extends HTMLElement {
    #frame = null;
    #button = null;
    #waiting = []; // messages until the frame's page is ready
    #ready = false;
    #onMessage = (event) => this.#hear(event);

    connectedCallback() {
      if (this.shadowRoot) return addEventListener("message", this.#onMessage); // moved, not made
      const root = this.attachShadow({ mode: "open" });
      const sheet = new CSSStyleSheet(); // a host's style-src has no say in it
      sheet.replaceSync(CSS);
      root.adoptedStyleSheets = [sheet];
      const accent = this.dataset.accent;
      if (accent && globalThis.CSS.supports("color", accent)) this.style.setProperty("--accent", accent);
      this.#button = document.createElement("button");
      this.#button.type = "button";
      const icon = svg("svg", "viewBox", "0 0 24 24");
      icon.append(svg("path", "d", "M21 12a8 8 0 0 1-8 8H4l2-3.2A8 8 0 1 1 21 12z"));
      this.#button.append(icon);
      this.#button.onclick = () => (this.isOpen ? this.close() : this.open());
      this.#button.onpointerenter = this.#button.onfocus = () => this.#makeFrame();
      root.append(this.#button);
      this.#tell();
      addEventListener("message", this.#onMessage);
      if (this.dataset.open === "true") this.open(false);
      else (globalThis.requestIdleCallback ?? setTimeout)(() => this.isConnected && this.#makeFrame());
    }

    disconnectedCallback() {
      removeEventListener("message", this.#onMessage);
    }

    get isOpen() {
      return this.#frame !== null && !this.#frame.hidden;
    }

    open(focus = true) {
      this.#makeFrame();
      this.#frame.hidden = false;
      this.#tell();
      if (focus) this.#post({ sluice: "open" });
    }

    close() {
      if (!this.isOpen) return;
      this.#frame.hidden = true;
      this.#tell();
      this.#button.focus();
    }

    reset() {
      this.#makeFrame();
      this.#post({ sluice: "reset" });
    }

    send(text) {
      this.open();
      this.#post({ sluice: "send", text: String(text) });
    }

    #makeFrame() {
      if (this.#frame) return;
      const url = new URL(base);
      url.searchParams.set("embedded", "1");
      for (const name of PASSED_ON) if (this.dataset[name]) url.searchParams.set(name, this.dataset[name]);
      this.#frame = document.createElement("iframe");
      this.#frame.hidden = true;
      this.#frame.name = `-${[...document.querySelectorAll(TAG)].indexOf(this)}`; // each keeps its own conversation
      this.#frame.title = this.dataset.title || this.#texts[2];
      this.#frame.allow = "clipboard-write";
      this.#frame.src = url;
      this.#frame.onload = () => setTimeout(() => this.#ready || this.#complain(), READY_MS);
      this.shadowRoot.append(this.#frame);
    }

    #complain() {
      console.error(`Sluice: ${base.origin} refuses to be shown here. Set EMBED_ORIGINS=${location.origin} there.`);
    }

    #post(message) {
      if (this.#ready) this.#frame.contentWindow.postMessage(message, base.origin);
      else this.#waiting.push(message);
    }

    #hear(event) {
      // Any frame may post; only ours is heard, and only while the relay's page is in it.
      if (event.source !== this.#frame?.contentWindow || event.origin !== base.origin) return;
      if (event.data?.sluice === "ready") {
        this.#ready = true;
        this.#waiting.splice(0).forEach((message) => this.#post(message));
      } else if (event.data?.sluice === "close") {
        this.close();
      }
    }

    get #texts() {
      return TEXTS[(this.dataset.lang || navigator.language).startsWith("zh") ? "zh" : "en"];
    }

    #tell() {
      this.#button.ariaExpanded = this.isOpen;
      this.#button.ariaLabel = this.#texts[this.isOpen ? 1 : 0];
    }
  }

  const svg = (tag, attribute, value) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    element.setAttribute(attribute, value);
    return element;
  };

  if (!customElements.get(TAG)) customElements.define(TAG, Chat);
  const chat = document.createElement(TAG);
  Object.assign(chat.dataset, script.dataset);
  globalThis.Sluice ??= chat; // the first one; document.querySelectorAll("sluice-chat") finds all
  const show = () => document.body.append(chat);
  if (document.body) show();
  else addEventListener("DOMContentLoaded", show, { once: true });
})();
