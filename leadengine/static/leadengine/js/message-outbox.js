// What was typed is never lost: a bubble at once, kept with its key in localStorage until the server has it.
//
// One request in flight per ticket, in order. A failed network is retried with the same key when the connection is
// back, for ten minutes, then asks. A refusal turns the bubble red with its reason and a way out.
const ASK_AFTER = 10 * 60 * 1000, RETRY_EVERY = 15000;

class MessageOutbox extends HTMLElement {
  connectedCallback() {
    this.store = `outbox:${this.dataset.user}`;
    this.entries = this.read();
    this.sending = new Set();
    const on = (name, act) => document.addEventListener(name, ({ detail }) => act(detail ?? {}));
    on("message:send", (entry) => this.take(entry));
    on("thread:ready", ({ ticket }) => this.entries.filter((one) => one.ticket === ticket).forEach((one) => this.draw(one)));
    on("thread:merged", () => this.settle());
    for (const name of ["live:open", "session:restored"]) on(name, () => this.flush());
    addEventListener("online", () => this.flush());
    document.addEventListener("click", (event) => this.choose(event));
    setInterval(() => this.flush(), RETRY_EVERY);
    for (const entry of this.entries) if (document.querySelector(`message-thread[data-ticket="${entry.ticket}"]`)) this.draw(entry);
    this.flush();
  }

  read() {
    try {
      return JSON.parse(localStorage.getItem(this.store) ?? "[]");
    } catch {
      return [];
    }
  }

  write() {
    try {
      localStorage.setItem(this.store, JSON.stringify(this.entries));
    } catch {} // a full or closed storage: the bubble still holds the text
  }

  take(entry) {
    if (!entry.queue && this.entries.some((one) => one.key === entry.key && !one.failed)) return;
    this.entries = this.entries.filter((one) => one.key !== entry.key);
    this.entries.push({ ...entry, at: Date.now() });
    this.write();
    this.draw(this.entries.at(-1));
    this.flush();
  }

  flush() {
    for (const entry of this.entries)
      if (!entry.failed && !this.sending.has(entry.ticket) && !this.asks(entry)) this.send(entry);
  }

  asks(entry) {
    if (Date.now() - entry.at < ASK_AFTER) return false;
    this.say(entry, this.dataset.wordsAsk, ["retry", "edit", "discard"], "doubt");
    return true;
  }

  async send(entry) {
    this.sending.add(entry.ticket);
    let answer = null;
    try {
      answer = await fetch(this.dataset.url.replace(/0{8}-(0{4}-){3}0{12}/, entry.ticket), {
        method: "POST",
        headers: { "X-CSRFToken": document.querySelector("meta[name=csrf]").content, "X-Requested-With": "fetch" },
        body: form(entry),
      });
      await this.answered(entry, answer);
    } catch {
      this.say(entry, this.dataset.wordsOffline, ["discard"], "waiting");
    }
    this.sending.delete(entry.ticket);
    if (answer?.ok) this.flush();
  }

  async answered(entry, answer) {
    if (answer.ok) {
      document.dispatchEvent(new CustomEvent("thread:html", { detail: { ticket: entry.ticket, html: await answer.text() } }));
      document.dispatchEvent(new CustomEvent("list:refresh"));
      if (entry.reopen) document.dispatchEvent(new CustomEvent("ticket:changed", { detail: { ticket: entry.ticket } }));
      return this.forget(entry);
    }
    if (answer.status === 401) document.dispatchEvent(new CustomEvent("session:ended"));
    const { error } = await answer.json().catch(() => ({}));
    if (!error || answer.status === 401)
      return this.say(entry, this.dataset.wordsOffline, ["discard"], "waiting");
    if (error.code === "NEWER_MESSAGE") {
      this.forget(entry);
      return document.dispatchEvent(new CustomEvent("message:newer", { detail: { ticket: entry.ticket, entry, newer: error.details.newer ?? [] } }));
    }
    entry.failed = error.message;
    this.write();
    this.draw(entry);
  }

  // The bubble: a clone of the server's template; the text goes in as text.
  draw(entry) {
    const old = this.bubble(entry);
    const item = old ?? document.querySelector(`#pending-${entry.kind.toLowerCase()}`)?.content.firstElementChild.cloneNode(true);
    if (!item) return;
    item.dataset.key = item.dataset.id = entry.key;
    item.dataset.at = entry.at;
    item.dataset.sort = `${String(entry.at).padStart(13, "0")}.9`;
    item.querySelector("[data-text]").textContent = entry.text;
    if (!old) document.dispatchEvent(new CustomEvent("thread:pending", { detail: { ticket: entry.ticket, item } }));
    item.classList.toggle("is-failed", Boolean(entry.failed));
    const ways = entry.failed ? ["retry", "edit", "discard"] : [];
    this.say(entry, entry.failed || this.dataset.wordsSending, ways, entry.failed ? "failed" : "waiting");
  }

  say(entry, words, actions, tone) {
    const state = this.bubble(entry)?.querySelector("[data-state]");
    if (!state) return;
    state.className = `state state-${tone}`;
    state.querySelector("[data-words]").textContent = words;
    for (const button of state.querySelectorAll("[data-outbox]")) button.hidden = !actions.includes(button.dataset.outbox);
    if (tone === "failed") document.dispatchEvent(new CustomEvent("announce", { detail: { text: words, assertive: true } }));
  }

  bubble({ key }) {
    return document.querySelector(`.item[data-pending][data-key="${CSS.escape(key)}"]`);
  }

  choose(event) {
    const action = event.target.closest("[data-outbox]")?.dataset.outbox;
    const key = action && event.target.closest("[data-key]").dataset.key;
    const entry = this.entries.find((one) => one.key === key);
    if (!entry) return;
    if (action === "retry") return this.take({ ...entry, failed: "", queue: true });
    this.forget(entry);
    if (action === "edit") document.dispatchEvent(new CustomEvent("message:edit", { detail: entry }));
  }

  // The server's bubble may come by the socket before the answer does: then the work is done.
  settle() {
    for (const entry of [...this.entries])
      if (document.querySelector(`.item[data-key="${CSS.escape(entry.key)}"]:not([data-pending])`)) this.forget(entry);
  }

  forget(entry) {
    this.entries = this.entries.filter((one) => one.key !== entry.key);
    this.write();
    this.bubble(entry)?.remove();
  }
}

const form = ({ kind, text, key, expected, force, reopen, queue }) =>
  new URLSearchParams({ kind, text, key, expected, force: force ? 1 : "", reopen: reopen ? 1 : "", queue: queue ? 1 : "" });

customElements.define("message-outbox", MessageOutbox);
