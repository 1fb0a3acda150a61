// Keeps the open thread equal to the database: hints from the socket, catch-up by cursor over HTTP.
//
// The cursor "P.E" is the last gapless position and the last event. One request in flight; in a loop until a page is
// not full. Out: thread:page {ticket, page}, live:subscribe, ticket:removed, ticket:changed {ticket, data}.
const CALM = 60;

class ThreadSync extends HTMLElement {
  connectedCallback() {
    this.ticket = this.dataset.ticket;
    this.wanted = new Map();
    this.early = [];
    this.stop = new AbortController();
    const on = (name, act) => document.addEventListener(name, ({ detail }) => act(detail), { signal: this.stop.signal });
    for (const name of ["live:open", "live:poll", "live:resync", "live:reload"]) on(name, () => this.catchUp(true));
    on("live:subscribed", (data) => data.ticketId === this.ticket && this.compare(data.cursor));
    on("live:ping", (data) => this.compare(data.cursors?.[this.ticket]));
    on("live:ticket.message", (data) => data.ticketId === this.ticket && this.compare(`${data.position}.0`));
    on("live:ticket.updated", (data) => data.ticketId === this.ticket && this.changed(data));
    on("live:message.updated", (data) => this.outdated(data));
    on("live:messages.new", (data) => this.elsewhere(data));
    on("visibilitychange", () => document.hidden || this.catchUp(true));
    this.tell("live:subscribe", { ticketId: this.ticket });
  }

  disconnectedCallback() {
    this.stop.abort();
    this.tell("live:unsubscribe", { ticketId: this.ticket });
  }

  tell(name, detail) {
    document.dispatchEvent(new CustomEvent(name, { detail }));
  }

  compare(cursor) {
    if (!cursor) return;
    const [position, event] = String(cursor).split(".").map(Number);
    const [here, seen] = this.dataset.cursor.split(".").map(Number);
    if (position > here || event > seen) this.catchUp();
  }

  changed(data) {
    if (data.removed) return this.tell("ticket:removed", data);
    if (data.entry || data.changed?.some((name) => name !== "timeline")) this.catchUp();
    this.tell("ticket:changed", { ticket: this.ticket, data });
  }

  // A contact who came back writes in a new ticket: say where.
  elsewhere(data) {
    if (data.contactId !== this.dataset.contact || data.ticketId === this.ticket || data.position > 1) return;
    const notice = document.querySelector("[data-elsewhere]");
    notice.querySelector("a").href = location.pathname.replace(this.ticket, data.ticketId);
    notice.hidden = false;
  }

  // An older version that arrives late changes nothing; a newer one is fetched, together with its neighbours. One of a
  // message that a request under way is bringing, perhaps as it was before, waits for it.
  outdated(data) {
    const { ticketId, messageId, position, version } = data;
    const item = document.querySelector(`.item[data-id="${CSS.escape(messageId)}"]`);
    if (!item && this.running) this.early.push(data);
    if (!item || Number(item.dataset.version) >= version) return;
    const [from, to] = this.wanted.get(ticketId) ?? [position, position];
    this.wanted.set(ticketId, [Math.min(from, position), Math.max(to, position)]);
    this.later ??= setTimeout(() => this.refreshStates(), CALM);
  }

  async refreshStates() {
    const wanted = [...this.wanted];
    this.wanted.clear();
    this.later = null;
    for (const [ticketId, [from, to]] of wanted)
      await this.load(`${this.dataset.url.replace(this.ticket, ticketId)}?states=${from}..${to}`);
  }

  // A hint that comes while a request is under way asks for one more round.
  async catchUp(states = false) {
    this.states ||= states;
    if (this.running) return void (this.again = true);
    this.running = true;
    try {
      for (let more = true; more && this.isConnected; ) {
        this.again = false;
        const query = new URLSearchParams({ after: this.dataset.cursor });
        const shown = this.states && this.shownPositions();
        if (shown) query.set("states", shown);
        const list = await this.load(`${this.dataset.url}?${query}`);
        if (!list) break;
        this.states = false;
        this.dataset.cursor = list.dataset.cursor;
        more = list.dataset.full === "true" || this.again;
      }
    } finally {
      this.running = false;
      for (const data of this.early.splice(0)) this.outdated(data);
    }
  }

  shownPositions() {
    const shown = document.querySelectorAll(`.item[data-position][data-ticket="${this.ticket}"]`);
    const positions = [...shown].map((item) => Number(item.dataset.position));
    return positions.length ? `${Math.min(...positions)}..${Math.max(...positions)}` : "";
  }

  async load(url) {
    try {
      const answer = await fetch(url, { headers: { "X-Requested-With": "fetch" } });
      if (answer.status === 401) this.tell("session:ended");
      if (answer.status === 404) this.tell("ticket:removed", { ticketId: this.ticket });
      if (!answer.ok) return null;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      this.tell("thread:page", { ticket: this.ticket, page });
      return page.querySelector("[data-items]");
    } catch {
      return null; // the network is away: the next hint or poll tries again
    }
  }
}

customElements.define("thread-sync", ThreadSync);
