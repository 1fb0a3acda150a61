// The count in the title, the polite announcements, and one desktop notification per ticket and turn when allowed.
const TURN = 4000;

class DesktopNotify extends HTMLElement {
  connectedCallback() {
    this.title = document.title.replace(/^\(\d+\+?\) /, "");
    this.turns = new Map();
    const on = (name, act) => document.addEventListener(name, ({ detail }) => act(detail ?? {}));
    on("list:unread", ({ count }) => this.count(count));
    on("live:messages.new", (data) => data.direction === "INBOUND" && this.arrived(data));
    on("announce", ({ text, assertive }) => this.say(text, assertive));
    document.addEventListener("htmx:afterSettle", () => {
      const fresh = document.querySelector("[data-title]")?.dataset.title;
      if (fresh) this.title = fresh;
      this.count(this.unread ?? 0);
    });
  }

  count(unread) {
    this.unread = unread;
    const title = unread ? `(${unread > 99 ? "99+" : unread}) ${this.title}` : this.title;
    if (document.title !== title) document.title = title;
  }

  // One announcement per turn of a customer: "Maria: 3 messages".
  arrived(data) {
    const turn = this.turns.get(data.ticketId) ?? { count: 0 };
    clearTimeout(turn.timer);
    turn.count += 1;
    turn.timer = setTimeout(() => {
      this.turns.delete(data.ticketId);
      const words = turn.count === 1 ? this.dataset.one : this.dataset.many;
      this.say(words.replace("{name}", data.contactName).replace("{n}", turn.count));
      this.notify(data);
    }, TURN);
    this.turns.set(data.ticketId, turn);
  }

  notify(data) {
    const mine = data.assigneeId === this.dataset.user;
    const shown = !document.hidden && location.pathname.includes(data.ticketId);
    if (!mine || shown || this.dataset.wanted !== "mine" || window.Notification?.permission !== "granted") return;
    const notification = new Notification(data.contactName, { body: data.preview, tag: data.ticketId });
    notification.onclick = () => {
      window.focus();
      document.querySelector(`[data-rows] li[data-id="${data.ticketId}"] a`)?.click();
    };
  }

  say(text, assertive = false) {
    const region = this.querySelector(assertive ? "[aria-live=assertive]" : "[aria-live=polite]");
    region.textContent = "";
    requestAnimationFrame(() => (region.textContent = text));
  }
}

customElements.define("desktop-notify", DesktopNotify);
