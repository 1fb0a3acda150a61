// The scroll of the thread: opens at the first unread, stays at the end only if it was there, keeps the anchor while
// older pages arrive, keeps at most 300 items, and moves the read marker when the end was seen for a second.
const MOST = 300, NEAR = 80, AHEAD = 500, FAR = 320, SEEN = 1000;

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
    if (this.thread.dataset.at) return;
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
    const anchor = [...this.items.querySelectorAll(":scope > .item")].find((item) => item.getBoundingClientRect().bottom > top);
    return { atEnd: this.distance() < NEAR, anchor, offset: anchor?.getBoundingClientRect().top };
  }

  release({ atEnd, anchor, offset }, { own, paging, added }) {
    if (own || (atEnd && !paging && !this.cut)) {
      this.toEnd();
    } else if (anchor?.isConnected) {
      this.scrollTop += anchor.getBoundingClientRect().top - offset;
    }
    if (added && !paging && !own && !this.atEnd) this.count(this.news + added);
    this.trim();
    this.watch();
  }

  // Whether the newest part is not in the DOM.
  get cut() {
    return Boolean(this.items.dataset.newer);
  }

  // The far end is dropped and comes back on scroll.
  trim() {
    const messages = [...this.items.querySelectorAll(":scope > .message")];
    const extra = messages.length - MOST;
    if (extra <= 0) return;
    const held = this.hold();
    const above = this.scrollTop > this.scrollHeight / 2;
    const edge = above ? messages[extra] : messages[MOST - 1];
    for (const item of [...this.items.children])
      if (above ? item.dataset.sort < edge.dataset.sort : item.dataset.sort > edge.dataset.sort) item.remove();
    this.items.dataset[above ? "older" : "newer"] = edge.dataset.id;
    this.thread.decorate();
    if (held.anchor?.isConnected) this.scrollTop += held.anchor.getBoundingClientRect().top - held.offset;
  }

  moved() {
    this.atEnd = this.distance() < NEAR && !this.cut;
    if (this.atEnd) this.count(0);
    this.pill.hidden = !this.news && !this.cut && this.distance() < FAR;
    if (this.scrollTop < AHEAD) this.page("older", "before");
    if (this.distance() < AHEAD) this.page("newer", "newer");
    this.watch();
  }

  async page(end, name) {
    const id = this.items.dataset[end];
    const page = id && (await this.load(`?${name}=${id}`));
    if (!page) return;
    this.items.dataset[end] = page.querySelector("[data-items]").dataset[end];
    this.thread.merge(page, { paging: true });
    this.moved();
  }

  // Far from the end, the way back to it is the newest part anew.
  toEnd() {
    if (this.cut) return void this.newest();
    this.scrollTop = this.scrollHeight;
    this.atEnd = true;
    this.count(0);
    this.watch();
  }

  async newest() {
    const page = await this.load("");
    if (!page) return;
    const fresh = page.querySelector("[data-items]");
    Object.assign(this.items.dataset, { older: fresh.dataset.older, newer: "" });
    this.items.replaceChildren(...[...fresh.children].map((item) => document.importNode(item, true)));
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

  count(news) {
    this.news = news;
    const text = this.pill.querySelector("[data-text]");
    text.textContent = news ? this.pill.dataset.words.replace("{n}", news) : "";
    this.pill.classList.toggle("to-end-quiet", !news);
    this.pill.hidden = !news && !this.cut && this.distance() < FAR;
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
