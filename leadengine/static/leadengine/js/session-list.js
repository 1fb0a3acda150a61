// The cards of connections: the socket says which one changed, that card alone is fetched anew.
const PAUSE = 300;

class SessionList extends HTMLElement {
  connectedCallback() {
    this.changed = new Set();
    document.addEventListener("live:whatsapp.session.updated", ({ detail }) => this.hear(detail));
    for (const name of ["live:open", "live:poll"]) document.addEventListener(name, () => this.later("#sessions"));
    this.addEventListener("toggle", ({ target }) => !target.open && this.changed.size && this.later(), true);
    this.addEventListener("htmx:afterRequest", ({ detail }) => detail.successful && detail.requestConfig.verb === "post" && this.later("#sessions"));
  }

  // Another owner's line comes in the short form, without `change`: it has no card here.
  hear({ sessionId, version, change }) {
    if (!change) return;
    const card = document.getElementById(`session-${sessionId}`);
    if (!card || change === "deleted") this.later("#sessions");
    else if (Number(card.dataset.version) < version || change === "evidence") this.later(`#session-${sessionId}`);
  }

  later(selector) {
    if (selector) this.changed.add(selector);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fetch(), PAUSE);
  }

  // A card whose menu is open waits until it is closed.
  fetch() {
    const all = this.changed.has("#sessions");
    for (const selector of all ? ["#sessions"] : [...this.changed]) {
      if (this.querySelector(`${selector} details[open]`)) continue;
      this.changed.delete(selector);
      if (all) this.changed.clear();
      htmx.ajax("GET", this.dataset.url, { source: this, target: selector, select: selector, swap: "outerHTML" });
    }
  }
}

customElements.define("session-list", SessionList);
