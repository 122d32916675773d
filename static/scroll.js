/**
 * Keeps the end of a growing text in view while its reader is there:
 *
 *     const follower = new EndFollower(scroller, button);
 *     follower.painted(); // there is more of it
 *     follower.jump(); // go to the end, and follow it again
 *
 * A reader leaves by any move upwards or by selecting text, and is back on coming within END_PX of the end, or by the
 * End key. `button` ("jump to latest") shows meanwhile. Nothing scrolls smoothly: the end would be gone on arrival.
 */

const END_PX = 48;
const UPWARDS = ["ArrowUp", "PageUp", "Home"];

export class EndFollower {
  #scroller;
  #button;
  #following = true;
  #top = 0; // when last looked at
  #touched = 0; // where, from the top

  constructor(scroller, button) {
    this.#scroller = scroller;
    this.#button = button;
    const listen = (type, listener) => scroller.addEventListener(type, listener, { passive: true });
    listen("scroll", () => this.#look());
    // These come before the scrolling that they cause: the next words must not undo it.
    listen("wheel", ({ deltaY, ctrlKey }) => deltaY < 0 && !ctrlKey && this.#leave());
    listen("touchstart", ({ touches }) => (this.#touched = touches[0].clientY));
    listen("touchmove", ({ touches }) => touches[0].clientY > this.#touched && this.#leave());
    document.addEventListener("keydown", (key) => this.#press(key));
    document.addEventListener("selectionchange", () => this.#isSelecting() && this.#leave());
    button.addEventListener("click", () => this.jump());
    // A phone's keyboard, or a question of many lines, takes height away from below.
    new ResizeObserver(() => this.painted()).observe(scroller);
  }

  painted() {
    if (this.#following) {
      this.#scroller.scrollTop = this.#scroller.scrollHeight;
      this.#top = this.#scroller.scrollTop;
    }
    this.#showButton();
  }

  jump() {
    this.#following = true;
    this.painted();
  }

  #look() {
    const { scrollTop } = this.#scroller;
    if (scrollTop > this.#top && this.#gap() <= END_PX) this.#following = true;
    if (scrollTop < this.#top && this.#gap() > 1) this.#following = false; // by its bar, or by a script
    this.#top = scrollTop;
    this.#showButton();
  }

  #leave() {
    if (this.#scroller.scrollTop > 0) this.#following = false;
  }

  #gap() {
    return this.#scroller.scrollHeight - this.#scroller.clientHeight - this.#scroller.scrollTop;
  }

  #press({ key, shiftKey, target }) {
    if (target.matches("input, textarea")) return;
    if (UPWARDS.includes(key) || (key === " " && shiftKey)) this.#leave();
    if (key === "End") this.jump();
  }

  #isSelecting() {
    const { isCollapsed, anchorNode } = getSelection();
    return !isCollapsed && this.#scroller.contains(anchorNode);
  }

  #showButton() {
    const hidden = this.#following || this.#gap() <= END_PX;
    if (hidden && document.activeElement === this.#button) this.#scroller.focus({ preventScroll: true });
    this.#button.hidden = hidden;
  }
}
