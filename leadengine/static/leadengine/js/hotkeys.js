// Single letters, only while no field has focus and no dialog is open (spec/inbox.md section 9).
class HotKeys extends HTMLElement {
  connectedCallback() {
    document.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "Escape") return this.escape(field);
    if (field || document.querySelector("dialog[open]") || document.body.dataset.keys === "off") return;
    const act = this.acts[event.key];
    if (act && act() !== false) event.preventDefault();
  }

  acts = {
    j: () => this.step(1),
    k: () => this.step(-1),
    r: () => this.compose("REPLY"),
    n: () => this.compose("NOTE"),
    a: () => this.push("[data-key=take]"),
    e: () => this.push("[data-key=close]"),
    u: () => this.push("[data-key=unread]"),
    i: () => this.push("[data-key=panel]"),
    "?": () => document.querySelector("#keys").showModal(),
  };

  // Moves the focus over the rows; Enter, which a link understands by itself, opens.
  step(by) {
    const links = [...document.querySelectorAll("[data-rows] a")].filter((link) => link.checkVisibility());
    const here = links.indexOf(document.activeElement);
    const start = here >= 0 ? here : links.findIndex((link) => link.ariaCurrent) - (by < 0 ? 0 : 0);
    const next = links[Math.max(0, Math.min(links.length - 1, start + by))];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  }

  compose(kind) {
    if (!document.querySelector("message-composer")) return false;
    document.dispatchEvent(new CustomEvent("composer:focus", { detail: { kind } }));
    return true;
  }

  push(selector) {
    const button = document.querySelector(selector);
    if (!button || button.disabled) return false;
    button.click();
    return true;
  }

  escape(field) {
    const open = document.querySelector("details.menu[open]");
    const panel = document.querySelector('.ticket[data-panel="open"]');
    if (open) {
      open.open = false;
      open.querySelector("summary").focus();
    } else if (field) field.blur();
    else if (panel) this.push("[data-key=panel]");
    else if (document.querySelector("[data-rows] a[aria-current]")) document.querySelector("[data-rows] a[aria-current]").focus();
  }
}

customElements.define("hot-keys", HotKeys);
