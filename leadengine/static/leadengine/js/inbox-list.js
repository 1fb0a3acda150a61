// The ticket list: fetches its own fragment on every hint and reconciles it into the live DOM, row by row.
//
// A row is an <li data-id> with one link. Rows keep their element, so focus, selection and scroll survive; while the
// pointer is over the list or a row has focus, the order is kept and a pill says how many changes wait.
const COALESCE = 500, MOST_FETCHED = 100;
const HINTS = ["messages.new", "message.updated", "ticket.updated", "lead.updated", "resync", "reload", "open", "poll"];

class InboxList extends HTMLElement {
  connectedCallback() {
    this.rows = this.querySelector("[data-rows]");
    this.pill = this.querySelector("[data-updates]");
    this.scroller = this.querySelector(".list-scroll");
    this.html = new Map([...this.rows.children].map((row) => [row.dataset.id, row.innerHTML]));
    for (const hint of HINTS) document.addEventListener(`live:${hint}`, () => this.hint());
    document.addEventListener("list:refresh", () => this.hint());
    document.addEventListener("visibilitychange", () => document.hidden || (this.missed && this.hint()));
    this.addEventListener("list:page", ({ detail }) => this.turn(detail.page, detail.append));
    this.scroller.addEventListener("pointerleave", () => this.settle());
    this.scroller.addEventListener("focusout", () => setTimeout(() => this.settle()));
    this.pill.addEventListener("click", () => this.settle(true));
    this.title();
  }

  // One refresh at most every half second, none while the tab is hidden.
  hint() {
    if (document.hidden) {
      this.missed = true;
      return;
    }
    if (this.timer) return;
    const rest = COALESCE - (Date.now() - (this.last ?? 0));
    this.timer = setTimeout(() => this.refresh(), Math.max(0, rest));
  }

  async refresh() {
    this.timer = null;
    this.missed = false;
    if (this.busy) return void (this.again = true);
    this.busy = true;
    this.last = Date.now();
    try {
      const limit = Math.min(Math.max(50, this.rows.children.length), MOST_FETCHED);
      const page = await this.load(`${this.dataset.url}?${this.query()}&limit=${limit}`);
      if (page?.querySelector("[data-list]")?.dataset.tab === this.dataset.tab) this.apply(page);
    } finally {
      this.busy = false;
      if (this.again) {
        this.again = false;
        this.hint();
      }
    }
  }

  query() {
    return new URLSearchParams({ tab: this.dataset.tab, sort: this.dataset.sort }).toString();
  }

  async load(url) {
    try {
      const answer = await fetch(url, { headers: { "X-Requested-With": "fetch" } });
      if (answer.status === 401) document.dispatchEvent(new CustomEvent("session:ended"));
      if (!answer.ok) return null;
      return new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch {
      return null; // the network is away: the socket's bar says so, and polling tries again
    }
  }

  apply(page) {
    const fresh = [...page.querySelectorAll("[data-rows] > li")];
    const moving = fresh.filter((row, index) => this.rows.children[index]?.dataset.id !== row.dataset.id);
    for (const row of fresh) this.update(row);
    if (moving.length && this.held()) {
      this.waiting = page;
      this.pill.hidden = false;
      this.pill.querySelector("[data-text]").textContent = this.pill.dataset.words.replace("{n}", moving.length);
    } else {
      this.arrange(page, fresh);
    }
    this.counts(page);
  }

  held() {
    return this.scroller.matches(":hover") || this.rows.contains(document.activeElement);
  }

  // Rows that exist get their new content in place; the link element stays, so it keeps the focus.
  update(fresh) {
    const row = this.find(fresh.dataset.id);
    if (!row || this.html.get(fresh.dataset.id) === fresh.innerHTML) return;
    this.html.set(fresh.dataset.id, fresh.innerHTML);
    const [link, next] = [row.querySelector("a"), fresh.querySelector("a")];
    row.className = fresh.className;
    link.href = next.href;
    link.innerHTML = next.innerHTML;
  }

  arrange(page, fresh) {
    this.waiting = null;
    this.pill.hidden = true;
    const wanted = new Set(fresh.map((row) => row.dataset.id));
    const whole = fresh.length >= this.rows.children.length || !page.querySelector("[data-more]");
    fresh.forEach((next, index) => {
      let row = this.find(next.dataset.id);
      const here = this.rows.children[index];
      if (!row) {
        row = document.importNode(next, true);
        this.html.set(next.dataset.id, next.innerHTML);
        if (row.classList.contains("is-unread")) row.classList.add("is-new");
      }
      if (row === here) return;
      this.rows.insertBefore(row, here ?? null);
      htmx.process(row);
    });
    if (whole || this.rows.children.length <= MOST_FETCHED)
      for (const row of [...this.rows.children]) if (!wanted.has(row.dataset.id)) row.remove();
    this.querySelector("[data-foot]").replaceWith(document.importNode(page.querySelector("[data-foot]"), true));
    this.mark();
  }

  settle(now = false) {
    if (!this.waiting || (!now && this.held())) return;
    const page = this.waiting;
    this.arrange(page, [...page.querySelectorAll("[data-rows] > li")]);
    if (now) this.scroller.scrollTop = 0;
  }

  find(id) {
    return this.rows.querySelector(`:scope > li[data-id="${CSS.escape(id)}"]`);
  }

  mark() {
    document.dispatchEvent(new CustomEvent("list:changed"));
  }

  counts(page) {
    for (const count of page.querySelectorAll("[data-count]")) {
      const mine = this.querySelector(`[data-count="${count.dataset.count}"]`);
      if (mine && mine.textContent !== count.textContent) mine.textContent = count.textContent;
    }
    this.dataset.unread = page.querySelector("[data-unread]")?.dataset.unread ?? this.dataset.unread;
    this.title();
  }

  // Another tab, another order, or the next rows: what list-pages fetched.
  turn(page, append) {
    const fresh = [...page.querySelectorAll("[data-rows] > li")];
    if (append) {
      for (const row of fresh)
        if (!this.find(row.dataset.id)) {
          this.html.set(row.dataset.id, row.innerHTML);
          this.rows.append(document.importNode(row, true));
        }
      htmx.process(this.rows);
      this.querySelector("[data-foot]").replaceWith(document.importNode(page.querySelector("[data-foot]"), true));
      this.mark();
      return;
    }
    this.html.clear();
    this.rows.replaceChildren();
    this.arrange(page, fresh);
    for (const row of this.rows.children) row.classList.remove("is-new");
    this.counts(page);
    this.scroller.scrollTop = 0;
  }

  title() {
    document.dispatchEvent(new CustomEvent("list:unread", { detail: { count: Number(this.dataset.unread) || 0 } }));
  }
}

customElements.define("inbox-list", InboxList);
