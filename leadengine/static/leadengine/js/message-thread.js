// The open thread: one renderer (the server's), merged here by message id. An element is replaced only by a higher
// version, or when it is the local bubble of a message that the server now has.
//
// Items are <li data-id data-sort data-version>. In: thread:page {ticket, page}, thread:html {ticket, html, own},
// thread:pending {ticket, item}. Out: thread:ready, thread:merged {ticket, added}.
const GROUP = 5 * 60 * 1000;

class MessageThread extends HTMLElement {
  connectedCallback() {
    this.items = this.querySelector("[data-items]");
    this.ticket = this.dataset.ticket;
    this.stop = new AbortController();
    const on = (name, act) =>
      document.addEventListener(name, ({ detail }) => detail.ticket === this.ticket && act(detail), { signal: this.stop.signal });
    on("thread:page", ({ page }) => this.merge(page));
    on("thread:html", ({ html }) => this.merge(new DOMParser().parseFromString(html, "text/html"), { own: true }));
    on("thread:pending", ({ item }) => this.add(item));
    this.addEventListener("click", (event) => this.jump(event));
    this.decorate();
    this.tell("thread:ready");
    this.addEventListener("htmx:afterSwap", () => this.decorate());
    if (this.dataset.at) this.show(this.dataset.at);
  }

  disconnectedCallback() {
    this.stop.abort();
  }

  tell(name, detail = {}) {
    document.dispatchEvent(new CustomEvent(name, { detail: { ticket: this.ticket, ...detail } }));
  }

  // `paging`: older or newer history. While the newest part is not on screen, what arrives is only counted.
  merge(page, { own = false, paging = false } = {}) {
    const scroll = this.querySelector("thread-scroll");
    const held = scroll.hold();
    const away = Boolean(this.items.dataset.newer) && !paging;
    let added = 0;
    for (const item of page.querySelectorAll("[data-items] > .item")) {
      const before = this.find(item.dataset.id) ?? this.pending(item.dataset.key);
      if (before && !before.dataset.pending && Number(before.dataset.version) >= Number(item.dataset.version)) continue;
      if (!before && item.classList.contains("message")) added += 1;
      if (away && !before) continue;
      before?.remove();
      this.place(document.importNode(item, true));
    }
    this.drop(page.querySelector("[data-items]"));
    this.decorate();
    scroll.release(held, { own, paging, added });
    this.tell("thread:merged", { added });
  }

  // What the server no longer shows of the positions it was asked for: an echo that became one with our message.
  drop(list) {
    if (!list?.dataset.from) return;
    const { ticket, from, to } = list.dataset;
    for (const item of this.items.querySelectorAll(`.item[data-position][data-ticket="${ticket}"]`)) {
      const { id, position } = item.dataset;
      const covered = Number(position) >= Number(from) && Number(position) <= Number(to);
      if (covered && !list.querySelector(`[data-id="${CSS.escape(id)}"]`)) item.remove();
    }
  }

  add(item) {
    this.place(item);
    this.decorate();
    this.querySelector("thread-scroll").toEnd();
  }

  place(item) {
    const before = [...this.items.children].findLast((one) => one.dataset.sort <= item.dataset.sort);
    if (before) before.after(item);
    else this.items.prepend(item);
    window.htmx.process(item);
  }

  find(id) {
    return this.items.querySelector(`.item[data-id="${CSS.escape(id)}"]`);
  }

  pending(key) {
    return key ? this.items.querySelector(`.item[data-pending][data-key="${CSS.escape(key)}"]`) : null;
  }

  // Day headers and groups depend on the neighbours; the server does the same for the pages it renders.
  decorate() {
    for (const day of this.items.querySelectorAll(":scope > .day")) day.remove();
    let before = null;
    for (const item of [...this.items.querySelectorAll(":scope > [data-day]")]) {
      const { day, author, at } = item.dataset;
      const alone = item.previousElementSibling !== before;
      if (day !== before?.dataset.day) item.before(this.header(item.dataset.dayLabel));
      const joined =
        !alone && Boolean(author) && day === before?.dataset.day && author === before.dataset.author && at - before.dataset.at < GROUP;
      item.classList.toggle("is-joined", joined);
      item.classList.add("is-last");
      if (joined) before.classList.remove("is-last");
      before = item;
    }
  }

  header(label) {
    const day = document.createElement("li");
    day.className = "day";
    day.textContent = label;
    return day;
  }

  // A click on a quote shows the original: here, else on the page of the server that holds it.
  jump(event) {
    const quote = event.target.closest("a[data-jump]");
    if (quote && this.show(quote.dataset.jump)) event.preventDefault();
  }

  show(id) {
    const item = this.find(id);
    if (!item) return false;
    item.scrollIntoView({ block: "center" });
    item.classList.remove("is-target");
    void item.offsetWidth; // starts the animation again
    item.classList.add("is-target");
    return true;
  }
}

customElements.define("message-thread", MessageThread);
