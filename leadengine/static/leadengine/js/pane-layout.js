// The panes: which one a narrow screen shows, the list's width, the context drawer, dialogs and menus, toasts.
const LEAST = 300, WIDEST = 420, STEP = 16;

class PaneLayout extends HTMLElement {
  connectedCallback() {
    this.desk = document.querySelector(".desk");
    this.width(Number(this.dataset.width));
    this.addEventListener("click", (event) => this.click(event));
    this.addEventListener("toggle", (event) => this.menu(event), true);
    document.addEventListener("click", ({ target }) => this.closeMenus(target.closest("details.menu")));
    for (const name of ["htmx:pushedIntoHistory", "htmx:historyRestore", "htmx:replacedInHistory"]) document.addEventListener(name, () => this.follow());
    document.addEventListener("htmx:responseError", ({ detail }) => this.toast(detail.xhr.status === 401 ? "" : this.dataset.wordsError));
    document.addEventListener("htmx:sendError", () => this.toast(this.dataset.wordsOffline));
    document.addEventListener("toast", ({ detail }) => this.toast(detail.text));
    document.addEventListener("ticket:changed", ({ detail }) => this.refresh(detail));
    document.addEventListener("live:lead.updated", ({ detail }) => detail.contactId === document.querySelector("#context")?.dataset.contact && this.trigger("#context"));
    document.addEventListener("live:whatsapp.session.updated", () => this.trigger("#ticket-head", "#composer-notices"));
    document.addEventListener("ticket:removed", ({ detail }) => location.pathname.includes(detail.ticketId) && this.trigger("#ticket-pane"));
    document.addEventListener("list:unread", ({ detail }) => this.count(detail.count));
    const grip = this.querySelector(".grip");
    grip?.addEventListener("pointerdown", (event) => this.drag(event));
    grip?.addEventListener("keydown", (event) => this.nudge(event));
    visualViewport?.addEventListener("resize", () => this.keyboard());
  }

  // The address says what is open; the list marks its row.
  follow() {
    const id = location.pathname.match(/tickets\/([0-9a-f-]{36})/)?.[1];
    this.desk.toggleAttribute("data-open", Boolean(id));
    for (const link of document.querySelectorAll("[data-rows] a[aria-current]")) link.removeAttribute("aria-current");
    if (id) document.querySelector(`[data-rows] li[data-id="${id}"] a`)?.setAttribute("aria-current", "true");
  }

  // The message list changes by its own events; the panels only when who, where or what of the ticket changed.
  refresh({ data }) {
    const shown = document.querySelector("#ticket-head")?.dataset;
    if (!shown) return;
    const { status, queueId, assigneeId } = data?.ticket ?? {};
    const same = data && status === shown.status && queueId === shown.queue && (assigneeId ?? "") === shown.assignee;
    if (!same) this.trigger("#ticket-head", "#composer-notices", "#context");
  }

  trigger(...selectors) {
    for (const selector of selectors) if (document.querySelector(selector)) htmx.trigger(selector, "refresh");
  }

  click(event) {
    const at = (selector) => event.target.closest(selector);
    if (at("[data-dialog]")) document.querySelector(at("[data-dialog]").dataset.dialog)?.showModal();
    else if (at("[data-close-dialog]")) at("dialog").close();
    else if (event.target.matches("dialog[open]")) event.target.close();
    else if (at("[data-panel-toggle]")) this.panel(at(".ticket"));
    else if (at("[data-copy]")) this.copy(at("[data-copy]").dataset);
    else if (at(".menu-item")) this.closeMenus();
  }

  panel(ticket) {
    const open = ticket.dataset.panel !== "open";
    ticket.dataset.panel = open ? "open" : "";
    for (const button of ticket.querySelectorAll("[data-panel-toggle][aria-expanded]")) button.setAttribute("aria-expanded", open);
    if (open) ticket.querySelector(".context-head button")?.focus();
    else ticket.querySelector("[data-key=panel]")?.focus();
  }

  async copy({ copy, words }) {
    await navigator.clipboard?.writeText(copy);
    this.toast(words);
  }

  toast(text) {
    if (!text) return;
    const note = document.createElement("div");
    note.className = "toast";
    note.textContent = text;
    document.querySelector("#toasts").replaceChildren(note);
    setTimeout(() => note.remove(), 4000);
  }

  menu(event) {
    if (event.target.matches("details.menu[open]")) this.closeMenus(event.target);
    const { section } = event.target.dataset;
    if (section) localStorage.setItem(`section:${section}`, event.target.open ? "open" : "closed");
  }

  closeMenus(but = null) {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== but) menu.open = false;
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
