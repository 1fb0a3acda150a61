// The ticket list: fetches its own fragment on every hint and reconciles it into the live DOM, row by row.
// Rows keep their element, so focus, selection and scroll survive; while the pointer is over the list or a row has
// focus, the order is kept and a pill says how many changes wait.
const COALESCE = 500, MOST_FETCHED = 100;
const HINTS = ["messages.new", "message.updated", "ticket.updated", "lead.updated", "resync", "reload", "open", "poll"];

class InboxList extends HTMLElement {
  connectedCallback() {
    this.rows = this.querySelector("[data-rows]");
    this.pill = this.querySelector("[data-updates]");
    this.scroller = this.querySelector(".list-scroll");
    this.html = new Map([...this.rows.children].map((row) => [row.dataset.id, row.innerHTML]));
    for (const name of [...HINTS.map((hint) => `live:${hint}`), "list:refresh"]) document.addEventListener(name, () => this.hint());
    document.addEventListener("visibilitychange", () => document.hidden || (this.missed && this.hint()));
    this.addEventListener("list:page", ({ detail }) => this.turn(detail.page, detail.append));
    this.scroller.addEventListener("pointerleave", () => this.settle());
    this.scroller.addEventListener("focusout", () => setTimeout(() => this.settle()));
    this.pill.addEventListener("click", () => this.settle(true));
    this.counts(this);
  }

  // At most every half second, not while the tab is hidden.
  hint() {
    if (document.hidden) return void (this.missed = true);
    this.timer ??= setTimeout(() => this.refresh(), Math.max(0, COALESCE - (Date.now() - (this.last ?? 0))));
  }

  async refresh() {
    this.timer = this.missed = null;
    if (this.busy) return void (this.again = true);
    this.busy = true;
    this.last = Date.now();
    try {
      const limit = Math.min(Math.max(50, this.rows.children.length), MOST_FETCHED);
      const page = await this.load(new URLSearchParams({ tab: this.dataset.tab, sort: this.dataset.sort, limit }));
      if (page?.querySelector("[data-list]")?.dataset.tab === this.dataset.tab) this.apply(page);
    } finally {
      this.busy = false;
      if (this.again) this.hint();
      this.again = false;
    }
  }

  async load(query) {
    try {
      const answer = await fetch(`${this.dataset.url}?${query}`, { headers: { "X-Requested-With": "fetch" } });
      if (answer.status === 401) document.dispatchEvent(new CustomEvent("session:ended"));
      return answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
    } catch {
      return null; // the network is away: polling tries again
    }
  }

  apply(page) {
    const fresh = [...page.querySelectorAll("[data-rows] > li")];
    const moving = this.moving(fresh.map((row) => row.dataset.id));
    for (const row of fresh) this.update(row);
    this.counts(page);
    if (!moving || !this.held()) return this.arrange(page, fresh);
    this.waiting = page;
    this.pill.hidden = false;
    const words = this.pill.dataset[moving === 1 ? "word" : "words"];
    this.pill.querySelector("[data-text]").textContent = words.replace("{n}", moving);
  }

  // How many rows would come, go, or rise.
  moving(ids) {
    const here = [...this.rows.children].map((row) => row.dataset.id);
    const stay = here.filter((id) => ids.includes(id)), wanted = ids.filter((id) => here.includes(id));
    const rising = wanted.filter((id, index) => stay.indexOf(id) > index).length;
    return here.length - stay.length + ids.length - wanted.length + rising;
  }

  held() {
    const mouse = matchMedia("(hover: hover)").matches; // a finger leaves its hover behind
    return (mouse && this.scroller.matches(":hover")) || this.rows.contains(document.activeElement);
  }

  // Rows that exist get their new content in place; the link element stays, so it keeps the focus.
  update(fresh) {
    const row = this.find(fresh.dataset.id);
    if (!row || this.html.get(fresh.dataset.id) === fresh.innerHTML) return;
    this.html.set(fresh.dataset.id, fresh.innerHTML);
    row.className = fresh.className;
    row.querySelector("a").innerHTML = fresh.querySelector("a").innerHTML;
  }

  arrange(page, fresh) {
    this.waiting = null;
    this.pill.hidden = true;
    const wanted = new Set(fresh.map((row) => row.dataset.id));
    const whole = this.rows.children.length <= MOST_FETCHED || !page.querySelector("[data-more]");
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
    if (whole) for (const row of [...this.rows.children]) if (!wanted.has(row.dataset.id)) row.remove();
    this.foot(page);
  }

  foot(page) {
    this.querySelector("[data-foot]").replaceWith(document.importNode(page.querySelector("[data-foot]"), true));
    document.dispatchEvent(new CustomEvent("list:changed"));
  }

  settle(now = false) {
    if (!this.waiting || (!now && this.held())) return;
    this.arrange(this.waiting, [...this.waiting.querySelectorAll("[data-rows] > li")]);
    if (now) this.scroller.scrollTop = 0;
  }

  find(id) {
    return this.rows.querySelector(`:scope > li[data-id="${CSS.escape(id)}"]`);
  }

  counts(page) {
    for (const { dataset, textContent } of page.querySelectorAll("[data-count]"))
      this.querySelector(`[data-count="${dataset.count}"]`).textContent = textContent;
    this.dataset.unread = page.querySelector("[data-unread]")?.dataset.unread ?? this.dataset.unread;
    document.dispatchEvent(new CustomEvent("list:unread", { detail: { count: Number(this.dataset.unread) || 0 } }));
  }

  // Another tab, another order, or the next rows: what list-pages fetched.
  turn(page, append) {
    const fresh = [...page.querySelectorAll("[data-rows] > li")];
    if (!append) {
      this.html.clear();
      this.rows.replaceChildren();
      this.scroller.scrollTop = 0;
      this.counts(page);
    }
    for (const row of fresh)
      if (!this.find(row.dataset.id)) {
        this.html.set(row.dataset.id, row.innerHTML);
        this.rows.append(document.importNode(row, true));
      }
    htmx.process(this.rows);
    this.foot(page);
  }
}

customElements.define("inbox-list", InboxList);
