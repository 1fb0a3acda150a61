// The panes: which one a narrow screen shows, the list's width, the context drawer, and when panels are fetched anew.
const LEAST = 300, WIDEST = 420, STEP = 16;

class PaneLayout extends HTMLElement {
  connectedCallback() {
    this.desk = document.querySelector(".desk");
    this.width(Number(this.dataset.width));
    const on = (name, act) => document.addEventListener(name, ({ detail }) => act(detail ?? {}));
    for (const name of ["htmx:pushedIntoHistory", "htmx:historyRestore", "list:changed"]) on(name, () => this.follow());
    on("ticket:changed", (detail) => this.refresh(detail));
    on("live:lead.updated", ({ contactId }) => contactId === document.querySelector("#context")?.dataset.contact && this.trigger("#context"));
    on("live:whatsapp.session.updated", () => this.trigger("#ticket-head", "#composer-notices"));
    on("live:open", () => this.trigger("#ticket-head", "#composer-notices"));
    on("ticket:removed", ({ ticketId }) => location.pathname.includes(ticketId) && htmx.ajax("GET", location.pathname, "#ticket-pane"));
    on("list:unread", ({ count }) => this.count(count));
    on("htmx:afterSwap", () => this.settle());
    this.addEventListener("click", (event) => event.target.closest("[data-panel-toggle]") && this.panel(event.target.closest(".ticket")));
    this.addEventListener("toggle", ({ target }) => this.remember(target), true);
    const grip = this.querySelector(".grip");
    grip.addEventListener("pointerdown", (event) => this.drag(event));
    grip.addEventListener("keydown", (event) => this.nudge(event));
    visualViewport?.addEventListener("resize", () => this.keyboard());
    this.settle();
  }

  // The address says what is open; the list marks its row.
  follow() {
    const id = location.pathname.match(/tickets\/([0-9a-f-]{36})/)?.[1];
    this.desk.toggleAttribute("data-open", Boolean(id));
    for (const link of document.querySelectorAll("[data-rows] a[aria-current]")) link.removeAttribute("aria-current");
    if (id) document.querySelector(`[data-rows] li[data-id="${id}"] a`)?.setAttribute("aria-current", "true");
  }

  // The thread changes by its own events; the panels only when who, where or what of the ticket changed.
  refresh({ data }) {
    const shown = document.querySelector("#ticket-head")?.dataset;
    if (!shown) return;
    const { status, queueId, assigneeId } = data?.ticket ?? {};
    const same = data && status === shown.status && queueId === shown.queue && (assigneeId ?? "") === shown.assignee;
    if (!same) this.trigger("#ticket-head", "#composer-notices", "#context");
    else if (data.changed?.includes("notes")) this.trigger("#context");
  }

  trigger(...selectors) {
    for (const selector of selectors) if (document.querySelector(selector)) htmx.trigger(selector, "refresh");
  }

  panel(ticket) {
    const open = ticket.dataset.panel !== "open";
    ticket.dataset.panel = open ? "open" : "";
    for (const button of ticket.querySelectorAll("[data-panel-toggle][aria-expanded]")) button.setAttribute("aria-expanded", open);
    ticket.querySelector(open ? ".context-head button" : "[data-key=panel]")?.focus();
  }

  remember({ dataset, open }) {
    if (dataset?.section) localStorage.setItem(`section:${dataset.section}`, open ? "open" : "closed");
  }

  // What was swapped in takes over how its sections were left, and the words of the send button.
  settle() {
    for (const section of document.querySelectorAll("[data-section]"))
      section.open = localStorage.getItem(`section:${section.dataset.section}`) !== "closed";
    const words = document.querySelector("[data-send-words]");
    const { line, ended } = document.querySelector("#composer-notices")?.dataset ?? {};
    if (words) words.textContent = words.dataset[ended === "true" ? "wordsReopen" : line === "offline" ? "wordsQueue" : "wordsSend"];
  }

  count(unread) {
    const pill = document.querySelector("[data-rail-unread]");
    pill.hidden = !unread;
    pill.textContent = unread > 99 ? "99+" : unread;
  }

  width(pixels) {
    this.pixels = Math.min(WIDEST, Math.max(LEAST, pixels || 340));
    this.desk.style.setProperty("--list-width", `${this.pixels}px`);
    this.querySelector(".grip")?.setAttribute("aria-valuenow", this.pixels);
  }

  drag(event) {
    const grip = event.currentTarget, start = event.clientX - this.pixels;
    grip.setPointerCapture(event.pointerId);
    grip.dataset.dragging = "";
    grip.onpointermove = (move) => this.width(move.clientX - start);
    grip.onpointerup = () => {
      grip.onpointermove = grip.onpointerup = null;
      delete grip.dataset.dragging;
      this.keep();
    };
  }

  nudge({ key }) {
    if (key !== "ArrowLeft" && key !== "ArrowRight") return;
    this.width(this.pixels + (key === "ArrowLeft" ? -STEP : STEP));
    clearTimeout(this.later);
    this.later = setTimeout(() => this.keep(), 600);
  }

  keep() {
    const headers = { "X-CSRFToken": document.querySelector("meta[name=csrf]").content, "X-Requested-With": "fetch" };
    fetch(this.dataset.url, { method: "POST", headers, body: new URLSearchParams({ listWidth: this.pixels }) }).catch(() => {});
  }

  // The composer stays above a phone's keyboard.
  keyboard() {
    this.desk.style.height = innerHeight - visualViewport.height > 120 ? `${visualViewport.height}px` : "";
  }
}

customElements.define("pane-layout", PaneLayout);
