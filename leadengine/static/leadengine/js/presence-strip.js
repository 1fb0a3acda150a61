// Who else looks at this ticket: eyes and "typing". Reports our own state every 10 s; lapses are the server's.
const REPORT_EVERY = 10000, IDLE_AFTER = 60000;

class PresenceStrip extends HTMLElement {
  connectedCallback() {
    this.stop = new AbortController();
    const { signal } = this.stop;
    const on = (name, act) => document.addEventListener(name, ({ detail }) => act(detail ?? {}), { signal });
    on("live:subscribed", (data) => data.ticketId === this.dataset.ticket && (this.show(data.users), this.report()));
    on("live:presence.updated", (data) => data.ticketId === this.dataset.ticket && this.show(data.users));
    on("live:down", () => this.show([]));
    on("composer:typing", () => this.report("typing"));
    on("visibilitychange", () => this.report());
    for (const name of ["pointermove", "keydown"]) addEventListener(name, () => (this.active = Date.now()), { signal, passive: true });
    this.active = Date.now();
    this.timer = setInterval(() => this.report(), REPORT_EVERY);
  }

  disconnectedCallback() {
    this.stop.abort();
    clearInterval(this.timer);
  }

  report(state) {
    const idle = document.hidden || Date.now() - this.active > IDLE_AFTER;
    const data = { ticketId: this.dataset.ticket, state: state ?? (idle ? "idle" : "viewing") };
    document.dispatchEvent(new CustomEvent("live:send", { detail: { event: "presence", data } }));
  }

  show(users = []) {
    const others = users.filter(({ id }) => id !== document.body.dataset.user);
    this.hidden = !others.length;
    this.replaceChildren(
      ...others.slice(0, 4).map(({ name, initials, state }) => {
        const face = document.createElement("span");
        face.className = `avatar avatar-small present is-${state}`;
        face.title = this.dataset[state].replace("{name}", name);
        face.setAttribute("role", "img");
        face.setAttribute("aria-label", face.title);
        face.textContent = initials;
        return face;
      }),
    );
    const typing = others.filter(({ state }) => state === "typing").map(({ name }) => name.split(" ")[0]);
    const line = document.querySelector("[data-typing-line]");
    if (line) {
      line.hidden = !typing.length;
      line.textContent = typing.length ? this.dataset.typing.replace("{name}", typing.join(", ")) : "";
    }
  }
}

customElements.define("presence-strip", PresenceStrip);
