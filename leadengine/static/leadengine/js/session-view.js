// One connection: its state by the socket, its QR code renewed while somebody may scan it, then no more.
const READ_EVERY = 5000, HURRY = 2000;
const WAITING = ["connecting", "qrcode"];

class SessionView extends HTMLElement {
  connectedCallback() {
    document.addEventListener("live:whatsapp.session.updated", ({ detail }) => detail.sessionId === this.dataset.session && this.hear(detail));
    for (const name of ["live:open", "live:poll"]) document.addEventListener(name, () => this.refresh());
    document.addEventListener("htmx:beforeSwap", ({ detail }) => (this.held = detail.target?.contains(document.activeElement)));
    document.addEventListener("htmx:afterSwap", ({ target }) => this.settle(target));
    document.addEventListener("htmx:beforeRequest", ({ target }) => target.matches("form") && this.begin(true));
    document.addEventListener("htmx:afterRequest", ({ target }) => target.matches("form") && (this.busy = false));
    this.begin();
    this.settle(this.live);
    this.timer = setInterval(() => this.tick(), 1000);
    this.pair();
  }

  disconnectedCallback() {
    clearInterval(this.timer);
  }

  get live() {
    return this.querySelector("#session-live");
  }

  get code() {
    return this.querySelector("#session-qr");
  }

  get renewAfter() {
    return Number(this.dataset.renewSeconds) * 1000;
  }

  // The window in which somebody may scan: from the opening, an action, or a code that is asked for anew.
  begin(busy = false) {
    this.busy = busy;
    this.until = Date.now() + Number(this.dataset.viewSeconds) * 1000;
    this.next = Date.now() + 500;
  }

  hear({ version, status, change, riskPaused, name }) {
    const shown = this.live.dataset;
    if (Number(shown.version) > version) return;
    const same = status === shown.status && String(riskPaused) === shown.risk && name === shown.name;
    if (change === "deleted") this.leave();
    else if (!same) this.refresh();
    else if (change === "qr") this.over || this.read();
    else this.fetch(this.dataset.url, "#session-facts", "#session-facts");
  }

  leave() {
    clearInterval(this.timer);
    location.assign("../");
  }

  tick() {
    const status = this.live.dataset.status, now = Date.now();
    if (this.late) this.refresh();
    if (!WAITING.includes(status)) return;
    this.over = now >= this.until;
    if (this.over) return this.show();
    this.count();
    if (now < this.next || this.busy || document.hidden) return;
    this.next = now + (status === "qrcode" && this.code?.querySelector("img") ? READ_EVERY : HURRY);
    this.read();
  }

  // The code as it is now; one that has stood here for long is made anew, unless a pairing by number is under way.
  read() {
    const stale = this.since && Date.now() - this.since > this.renewAfter && !this.querySelector("#pair-code");
    if (stale) this.since = Date.now();
    const target = this.code ? "#session-qr" : "#session-live";
    this.fetch(stale ? this.dataset.renewUrl : this.dataset.qrUrl, target, "", stale ? "POST" : "GET");
  }

  refresh() {
    this.fetch(this.dataset.url, "#session-live");
  }

  // A question that stands over the page asks about what is under it, which therefore waits.
  fetch(url, target, select = "", verb = "GET") {
    this.late = Boolean(document.querySelector("dialog[open]"));
    if (this.late) return;
    if (this.querySelector(target)) htmx.ajax(verb, url, { source: this, target, swap: "outerHTML", ...(select && { select }) }).catch(() => {});
  }

  settle(swapped) {
    const { status, label } = this.live.dataset;
    if (status !== this.status) {
      if (this.status) this.querySelector("[data-announce]").textContent = label;
      if (this.status && status === "qrcode") this.begin();
      this.status = status;
    }
    const version = this.code?.dataset.version;
    if (version !== this.version || !this.since) {
      this.version = version;
      this.since = this.code?.querySelector("img") ? Date.now() : 0;
    }
    if (this.code) {
      const left = Number(this.code.dataset.left);
      this.ends = Date.now() + left * 1000;
      if (!this.life || left > this.life || this.counted !== version) [this.life, this.counted] = [Math.max(left, 1), version];
    }
    this.show();
    if (this.held && document.activeElement === document.body) (swapped?.querySelector?.("[data-focus]") ?? this.querySelector("[data-focus]"))?.focus();
  }

  show() {
    const scan = this.querySelector("[data-scan]");
    if (!scan) return;
    this.over = Date.now() >= this.until;
    scan.hidden = this.over;
    this.querySelector("[data-over]").hidden = !this.over;
    this.count();
  }

  // Its own end, or ours if that is sooner: what a person has left to scan this very picture.
  count() {
    const words = this.querySelector("[data-clock]");
    if (!words) return;
    const end = Math.min(this.ends, this.since ? this.since + this.renewAfter + READ_EVERY : this.ends);
    const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
    words.textContent = words.dataset.words.replace("{n}", left);
    this.querySelector(".ring-left").setAttribute("stroke-dashoffset", 100 - (100 * left) / Math.min(this.life, (this.renewAfter + READ_EVERY) / 1000));
  }

  // A link to the pairing by number opens it.
  pair() {
    if (location.hash === "#pair" && this.querySelector("#pair")) this.querySelector("#pair").open = true;
  }
}

customElements.define("session-view", SessionView);
