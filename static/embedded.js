/**
 * The page's side of an embedding: what the host's page may ask for by postMessage, and what it is told.
 *
 * Host to page: {sluice: "open"}, {sluice: "reset"}, {sluice: "send", text}. Page to host: {sluice: "ready"}, {sluice:
 * "close"}. The relay's own origin and those of EMBED_ORIGINS are heard; nobody else could show this page anyway
 * (frame-ancestors), but a frame can hand its parent's window to others.
 */

/** Return whether `origin` is one of `allowed`, among them "*" and "https://*.example.com". */
export function isAllowed(origin, allowed) {
  return allowed.some((entry) => {
    if (entry === "*" || entry === origin) return true;
    const [before, after] = entry.split("*.");
    return after !== undefined && origin.startsWith(before) && origin.endsWith(`.${after}`);
  });
}

/**
 * Tell the host's page that this one is ready, and call `open()`, `reset()` and `send(text)` when it asks.
 * Returns `close()`, which asks the host to hide the frame; null where the page is not in a frame.
 */
export function connect(handlers, allowed) {
  if (window.parent === window) return null;
  window.addEventListener("message", (event) => {
    if (event.source !== window.parent || !isAllowed(event.origin, allowed)) return;
    const { sluice, text } = event.data ?? {};
    if (sluice === "open") handlers.open();
    else if (sluice === "reset") handlers.reset();
    else if (sluice === "send" && typeof text === "string" && text.trim()) handlers.send(text);
  });
  const tell = (sluice) => window.parent.postMessage({ sluice }, "*"); // nothing in it is secret
  tell("ready");
  return () => tell("close");
}
