// The scroll of the thread: opens at the first unread, stays at the end only if it was there, keeps the anchor while
// older pages arrive, keeps at most 300 items, and moves the read marker when the end was seen for a second.
const MOST = 300, NEAR = 80, AHEAD = 500, SEEN = 1000;

class ThreadScroll extends HTMLElement {
  connectedCallback() {
    this.thread = this.closest("message-thread");
    this.items = this.querySelector("[data-items]");
    this.pill = this.thread.querySelector("[data-to-end]");
    this.news = 0;
    this.stop = new AbortController();
    const { signal } = this.stop;
    this.addEventListener("scroll", () => this.moved(), { passive: true, signal });
    this.pill.addEventListener("click", () => this.toEnd(), { signal });
    for (const name of ["focus", "visibilitychange"]) addEventListener(name, () => this.watch(), { signal });
    this.sizes = new ResizeObserver(() => this.atEnd && this.toEnd());
    this.sizes.observe(this);
    const line = this.items.querySelector(".unread-line");
    if (location.hash.startsWith("#m-")) return;
    if (line) line.scrollIntoView({ block: "center" });
    else this.toEnd();
    this.moved();
  }

  disconnectedCallback() {
    this.stop.abort();
    this.sizes.disconnect();
    clearTimeout(this.seen);
  }

  distance() {
    return this.scrollHeight - this.scrollTop - this.clientHeight;
  }

  // Remember what stands where, so that what arrives above or below does not move what is being read.
  hold() {
    const top = this.getBoundingClientRect().top;
    const anchor = [...this.items.children].find((item) => item.getBoundingClientRect().bottom > top);
    return { atEnd: this.distance() < NEAR, anchor, offset: anchor?.getBoundingClientRect().top };
  }

  release({ atEnd, anchor, offset }, { own, older, added }) {
    if ((atEnd && !older) || own) {
      this.toEnd();
    } else if (anchor?.isConnected) {
      this.scrollTop += anchor.getBoundingClientRect().top - offset;
      if (added && !older) this.count(this.news + added);
    }
    this.trim(older);
    this.watch();
  }

  // The far end is dropped and comes back on scroll.
  trim(older) {
    const items = [...this.items.querySelectorAll(":scope > .item")];
    const extra = items.length - MOST;
    if (extra <= 0) return;
    const held = this.hold();
    if (older) {
      for (const item of items.slice(-extra)) item.remove();
      this.dataset.cut = "true";
    } else if (this.distance() < NEAR) {
      for (const item of items.slice(0, extra)) item.remove();
      this.items.dataset.older = this.items.querySelector(".item").dataset.before;
    }
    if (held.anchor?.isConnected) this.scrollTop += held.anchor.getBoundingClientRect().top - held.offset;
  }

  moved() {
    this.atEnd = this.distance() < NEAR && !this.dataset.cut;
    this.pill.hidden = this.distance() < 320 && !this.dataset.cut && !this.news;
    if (this.atEnd) this.count(0);
    if (this.scrollTop < AHEAD) this.older();
    this.watch();
  }

  async older() {
    const before = this.items.dataset.older;
    const page = before && (await this.load(`?before=${encodeURIComponent(before)}`));
    if (!page) return;
    this.items.dataset.older = page.querySelector("[data-items]").dataset.older;
    this.thread.merge(page, { older: true });
  }

  // After the far end was dropped, the way back to it is the last page anew.
  async newest() {
    const page = await this.load("");
    if (!page) return;
    const fresh = page.querySelector("[data-items]");
    this.items.dataset.older = fresh.dataset.older;
    this.items.replaceChildren(...[...fresh.children].map((item) => document.importNode(item, true)));
    delete this.dataset.cut;
    this.thread.decorate();
    this.toEnd();
  }

  async load(query) {
    if (this.loading) return null;
    const sign = this.thread.querySelector("[data-loading]");
    this.loading = true;
    sign.hidden = false;
    try {
      const answer = await fetch(this.thread.dataset.url + query, { headers: { "X-Requested-With": "fetch" } });
      return answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
    } catch {
      return null; // offline: the next scroll tries again
    } finally {
      this.loading = false;
      sign.hidden = true;
    }
  }

  toEnd() {
    if (this.dataset.cut) return void this.newest();
    this.scrollTop = this.scrollHeight;
    this.atEnd = true;
    this.count(0);
    this.watch();
  }

  count(news) {
    this.news = news;
    const text = this.pill.querySelector("[data-text]");
    text.textContent = news ? this.pill.dataset.words.replace("{n}", news) : "";
    this.pill.classList.toggle("to-end-quiet", !news);
    this.pill.hidden = !news && this.distance() < 320;
  }

  // Seen = the end was on screen in a visible, focused tab for a second.
  watch() {
    clearTimeout(this.seen);
    const position = Number(this.thread.querySelector("thread-sync").dataset.cursor.split(".")[0]);
    if (!this.atEnd || document.hidden || !document.hasFocus() || position <= Number(this.thread.dataset.read)) return;
    this.seen = setTimeout(() => {
      this.thread.dataset.read = position;
      this.thread.dispatchEvent(new CustomEvent("thread:seen", { bubbles: true, detail: { position, url: this.thread.dataset.readUrl } }));
    }, SEEN);
  }
}

customElements.define("thread-scroll", ThreadScroll);
