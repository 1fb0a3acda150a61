// Dialogs, menus, toasts, copying, the quick switch of the theme: what every part of the desk shares.
class PageDialogs extends HTMLElement {
  connectedCallback() {
    document.addEventListener("click", (event) => this.click(event));
    document.addEventListener("toggle", ({ target }) => target.matches?.("details.menu[open]") && this.closeMenus(target), true);
    document.addEventListener("htmx:confirm", (event) => this.confirm(event));
    document.addEventListener("htmx:afterRequest", ({ detail }) => this.answered(detail));
    document.addEventListener("htmx:responseError", ({ detail }) => detail.xhr.status !== 401 && this.toast(reason(detail.xhr) ?? this.dataset.wordsError));
    document.addEventListener("htmx:sendError", () => this.toast(this.dataset.wordsOffline));
    document.addEventListener("toast", ({ detail }) => this.toast(detail.text));
    document.addEventListener("change", ({ target }) => target.name === "reason" && this.askNote(target));
  }

  click(event) {
    const at = (selector) => event.target.closest(selector);
    if (!at("details.menu") || at(".menu-item")) this.closeMenus();
    if (at("[data-dialog]")) this.open(document.querySelector(at("[data-dialog]").dataset.dialog));
    else if (at("[data-close-dialog]")) at("dialog").close();
    else if (event.target.matches("dialog[open]") && !event.target.closest("session-guard")) event.target.close();
    else if (at("[data-copy]")) this.copy(at("[data-copy]").dataset);
    else if (at("[data-theme-switch]")) this.theme();
  }

  open(dialog) {
    if (!dialog) return;
    dialog.showModal();
    const chosen = dialog.querySelector("input[name=reason]:checked");
    if (!chosen) return;
    chosen.focus();
    this.askNote(chosen);
  }

  // A reason may ask for a note; the browser then insists on it.
  askNote(reason) {
    const note = reason.form.querySelector("textarea");
    note.required = "needsNote" in reason.dataset;
    reason.form.querySelector("[data-optional]").hidden = note.required;
  }

  closeMenus(but = null) {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== but) menu.open = false;
  }

  confirm(event) {
    if (!event.detail.question) return;
    event.preventDefault();
    const dialog = document.querySelector("#confirm");
    dialog.querySelector("[data-question]").textContent = event.detail.question;
    dialog.querySelector("[data-confirm]").onclick = () => {
      dialog.close();
      event.detail.issueRequest(true);
    };
    dialog.showModal();
  }

  answered({ elt, successful, xhr }) {
    if (successful || xhr?.status === 409) elt.closest?.("dialog[open]")?.close();
  }

  async copy({ copy, words }) {
    await navigator.clipboard?.writeText(copy);
    this.toast(words);
  }

  toast(text) {
    const note = document.createElement("div");
    note.className = "toast";
    note.textContent = text;
    document.querySelector("#toasts").replaceChildren(note);
    setTimeout(() => note.remove(), 4000);
  }

  theme() {
    const root = document.documentElement;
    const dark = getComputedStyle(root).colorScheme === "dark";
    root.dataset.theme = dark ? "light" : "dark";
    const headers = { "X-CSRFToken": document.querySelector("meta[name=csrf]").content, "X-Requested-With": "fetch" };
    fetch("/account/desk/", { method: "POST", headers, body: new URLSearchParams({ theme: root.dataset.theme }) }).catch(() => {});
  }
}

function reason(xhr) {
  try {
    return JSON.parse(xhr.responseText).error.message;
  } catch {
    return null; // a page, or nothing: the general words do
  }
}

customElements.define("page-dialogs", PageDialogs);
