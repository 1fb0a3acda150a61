// The box: grows, counts, keeps the draft on the server, and hands what is sent to message-outbox with a key of its own.
//
// Out: message:send {ticket, key, kind, text, expected, reopen, queue, force}. In: message:edit {ticket, text},
// message:newer {ticket, entry, newer}, composer:focus {kind}.
const LIMIT = { REPLY: 4096, NOTE: 4000 }, WARN = 196, DRAFT_AFTER = 800, TYPING_EVERY = 2500;

class MessageComposer extends HTMLElement {
  connectedCallback() {
    this.form = this.querySelector("form");
    this.box = this.querySelector("textarea");
    this.button = this.querySelector("[data-send]");
    this.counter = this.querySelector("[data-count-left]");
    this.saved = this.querySelector("[data-saved]");
    this.newer = this.querySelector("[data-collision]");
    this.ticket = this.dataset.ticket;
    this.draft = this.body;
    this.stop = new AbortController();
    const { signal } = this.stop;
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.submit()), { signal });
    this.box.addEventListener("keydown", (event) => this.key(event), { signal });
    this.box.addEventListener("input", () => this.typed(), { signal });
    this.form.addEventListener("change", (event) => event.target.name === "kind" && this.turn(event.target.value), { signal });
    this.addEventListener("click", (event) => this.choose(event), { signal });
    addEventListener("pagehide", () => this.save(true), { signal });
    const on = (name, act) => document.addEventListener(name, ({ detail }) => act(detail ?? {}), { signal });
    on("composer:focus", ({ kind }) => (kind && this.turn(kind), this.box.focus()));
    on("message:edit", ({ ticket, text, kind }) => ticket === this.ticket && this.put(text, kind));
    on("message:newer", (detail) => detail.ticket === this.ticket && this.showNewer(detail));
    this.turn(this.kind);
    this.fit();
  }

  disconnectedCallback() {
    this.save(true);
    this.stop.abort();
  }

  get kind() { return this.form.elements.kind.value; }
  get body() { return `${this.kind}:${this.box.value}`; }
  get mode() { return document.querySelector("#composer-notices")?.dataset ?? {}; }

  turn(kind) {
    for (const tab of this.form.elements.kind) tab.checked = tab.value === kind;
    this.form.dataset.kind = kind;
    this.box.setAttribute("aria-label", this.box.dataset[kind === "NOTE" ? "labelNote" : "labelReply"]);
    this.box.placeholder = this.box.dataset[kind === "NOTE" ? "hintNote" : "hintReply"];
    this.fit();
  }

  // Enter sends, Shift+Enter breaks, or Ctrl+Enter only, by preference. Enter that ends a composition never sends.
  key(event) {
    if (event.key === "Escape") return void this.box.blur();
    if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return;
    const forced = event.ctrlKey || event.metaKey;
    if (!forced && (event.shiftKey || document.body.dataset.sendKey === "ctrl-enter")) return;
    event.preventDefault();
    if (!event.repeat) this.submit();
  }

  submit(more = {}) {
    const text = this.box.value.trim();
    if (!text || text.length > LIMIT[this.kind] || this.button.disabled) return;
    const { ended, line } = this.mode;
    const detail = {
      ticket: this.ticket, key: more.key ?? newKey(), kind: this.kind, text, expected: lastSeen(this.ticket),
      reopen: ended === "true", queue: line === "offline", ...more,
    };
    this.box.value = "";
    this.draft = this.body; // the server removes the draft with the send
    this.newer.hidden = true;
    clearTimeout(this.timer);
    this.fit();
    document.dispatchEvent(new CustomEvent("message:send", { detail }));
  }

  typed() {
    this.fit();
    this.saved.hidden = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), DRAFT_AFTER);
    if (Date.now() - (this.told ?? 0) < TYPING_EVERY) return;
    this.told = Date.now();
    document.dispatchEvent(new CustomEvent("composer:typing", { detail: { ticket: this.ticket } }));
  }

  fit() {
    if (!CSS.supports("field-sizing", "content")) {
      this.box.style.height = "auto";
      this.box.style.height = `${this.box.scrollHeight}px`;
    }
    const left = LIMIT[this.kind] - this.box.value.length;
    this.counter.hidden = left > WARN;
    this.counter.textContent = left;
    this.counter.toggleAttribute("data-over", left < 0);
    this.button.disabled = left < 0;
  }

  async save(leaving = false) {
    clearTimeout(this.timer);
    if (this.body === this.draft) return;
    const body = new URLSearchParams({ kind: this.kind, body: this.box.value });
    const headers = { "X-CSRFToken": document.querySelector("meta[name=csrf]").content, "X-Requested-With": "fetch" };
    const said = this.body;
    const answer = await fetch(this.dataset.draftUrl, { method: "POST", body, headers, keepalive: leaving }).catch(() => null);
    if (!answer?.ok) return; // offline: the next key, or leaving, saves it
    this.draft = said;
    this.saved.hidden = !this.box.value;
  }

  put(text, kind) {
    this.turn(kind ?? "REPLY");
    this.box.value = this.box.value ? `${text}\n${this.box.value}` : text;
    this.box.focus();
    this.typed();
  }

  // A colleague was faster: their words stand above the box, ours stay in it.
  showNewer({ entry, newer }) {
    this.put(entry.text, entry.kind);
    this.entry = entry;
    this.newer.querySelector("q").textContent = newer.map(({ content, caption }) => content || caption).join("\n");
    this.newer.querySelector("[data-who]").textContent = newer.at(-1)?.author?.name ?? "";
    this.newer.hidden = false;
  }

  choose(event) {
    const choice = event.target.closest("[data-newer-do]")?.dataset.newerDo;
    if (choice === "send") this.submit({ key: this.entry.key, force: true });
    if (choice === "review") {
      this.newer.hidden = true;
      this.box.focus();
      document.querySelector("thread-scroll")?.toEnd();
    }
  }
}

// The newest of this ticket by its position: what was scheduled, canceled or sent again stands elsewhere in the thread.
// What is only scheduled has not been said yet. Before the first of this ticket, what was said last in an earlier one.
const SAID = '[data-items] > .message[data-position]:not(:has([data-status="SCHEDULED"]))';
const lastSeen = (ticket) => {
  const said = [...document.querySelectorAll(SAID)], here = said.filter((one) => one.dataset.ticket === ticket);
  const newest = here.sort((one, next) => one.dataset.position - next.dataset.position).at(-1);
  return (newest ?? said.at(-1))?.dataset.id ?? "";
};
// randomUUID exists on https and loopback only.
const newKey = () => crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

customElements.define("message-composer", MessageComposer);
