// The socket tells, HTTP shows: this element turns frames into DOM events and is itself the bar "reconnecting".
//
// Out, on document: live:open, live:down, live:poll (every 15 s while down), live:<event> with the frame's data.
// In, on document: live:subscribe and live:unsubscribe {ticketId}, live:send {event, data}, session:restored.
const FIRST_WAIT = 1000, LONGEST_WAIT = 30000, BAR_AFTER = 2000, POLL_EVERY = 15000, SILENCE = 65000;

const tell = (name, detail = {}) => document.dispatchEvent(new CustomEvent(name, { detail }));

class EventSocket extends HTMLElement {
  connectedCallback() {
    this.tickets = new Set();
    this.wait = FIRST_WAIT;
    this.heard = Date.now();
    this.fresh = new Date();
    document.addEventListener("live:subscribe", ({ detail }) => this.subscribe(detail.ticketId));
    document.addEventListener("live:unsubscribe", ({ detail }) => {
      this.tickets.delete(detail.ticketId);
      this.send("unsubscribe", detail);
    });
    document.addEventListener("live:send", ({ detail }) => this.send(detail.event, detail.data));
    document.addEventListener("session:restored", () => this.connect());
    addEventListener("online", () => this.hurry());
    addEventListener("pageshow", () => this.hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.hurry());
    setInterval(() => this.watch(), 5000);
    this.connect();
  }

  connect() {
    clearTimeout(this.retry);
    if (this.socket) return;
    const socket = new WebSocket(this.dataset.path);
    this.socket = socket;
    this.heard = Date.now();
    socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    socket.onclose = ({ code }) => {
      if (this.socket === socket) this.lost(code);
    };
  }

  hurry() {
    if (!this.socket && !this.ended) {
      this.wait = FIRST_WAIT;
      this.connect();
    } else if (this.open && Date.now() - this.heard > SILENCE / 2) {
      this.drop();
    }
  }

  // A connection that a firewall forgot says nothing and does not close: after a silence it is given up.
  watch() {
    if (this.socket && Date.now() - this.heard > SILENCE) this.drop();
  }

  drop() {
    const dead = this.socket;
    this.socket = null;
    dead.onclose = dead.onmessage = null;
    dead.close();
    this.lost(1006);
  }

  lost(code) {
    const wasOpen = this.open;
    this.socket = null;
    this.open = false;
    if (wasOpen) this.fresh = new Date();
    if (code === 4401) {
      this.ended = true;
      tell("session:ended");
    } else {
      const restart = code === 1012;
      const pause = restart ? Math.random() * 5000 : this.wait * (0.7 + Math.random() * 0.6);
      this.retry = setTimeout(() => this.connect(), pause);
      this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
    }
    if (!this.bar) {
      this.bar = setTimeout(() => this.show(), BAR_AFTER);
      this.poll = setInterval(() => tell("live:poll"), POLL_EVERY);
      tell("live:down");
    }
  }

  show() {
    const time = this.fresh.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit" });
    this.querySelector("[data-text]").textContent = this.dataset.words.replace("{time}", time);
    this.hidden = false;
  }

  take({ event, data }) {
    this.heard = Date.now();
    if (event === "ready") {
      this.open = true;
      this.ended = false;
      this.wait = FIRST_WAIT;
      clearTimeout(this.bar);
      clearInterval(this.poll);
      this.bar = this.poll = null;
      this.hidden = true;
      for (const ticketId of this.tickets) this.send("subscribe", { ticketId });
      tell("live:open", data);
    } else if (event === "ping") {
      this.send("pong", {});
    }
    tell(`live:${event}`, data);
  }

  subscribe(ticketId) {
    this.tickets.add(ticketId);
    this.send("subscribe", { ticketId });
  }

  send(event, data) {
    if (this.open && this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ event, data }));
  }
}

customElements.define("event-socket", EventSocket);
