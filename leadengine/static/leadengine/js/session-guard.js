// The session has ended: a login dialog over the page, then everything goes on with the text still there.
class SessionGuard extends HTMLElement {
  connectedCallback() {
    this.dialog = this.querySelector("dialog");
    document.addEventListener("session:ended", () => this.ask());
    document.addEventListener("htmx:responseError", ({ detail }) => detail.xhr.status === 401 && this.ask());
    document.addEventListener("thread:seen", ({ detail }) => this.seen(detail));
    this.dialog.addEventListener("cancel", (event) => event.preventDefault());
    this.addEventListener("submit", (event) => (event.preventDefault(), this.login(event.target)));
  }

  async ask() {
    if (this.dialog.open || this.asking) return;
    this.asking = true;
    await this.fill(await fetch(this.dataset.url, { headers: { "X-Requested-With": "fetch" } }).catch(() => null));
    this.asking = false;
    if (this.querySelector("form")) this.dialog.showModal();
  }

  async fill(answer) {
    if (!answer) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    this.querySelector("[data-form]").replaceChildren(...document.importNode(page.body, true).childNodes);
    this.querySelector("input[type=password], input[name=email]")?.focus();
  }

  async login(form) {
    const answer = await fetch(this.dataset.url, {
      method: "POST", headers: { "X-Requested-With": "fetch" }, body: new URLSearchParams(new FormData(form)),
    }).catch(() => null);
    const token = answer?.headers.get("X-CSRFToken");
    if (!answer?.ok || !token) return this.fill(answer);
    if (answer.headers.get("X-User") !== this.dataset.user) return location.reload();
    document.querySelector("meta[name=csrf]").content = token;
    for (const input of document.querySelectorAll("input[name=csrfmiddlewaretoken]")) input.value = token;
    this.dialog.close();
    this.querySelector("[data-form]").replaceChildren();
    document.dispatchEvent(new CustomEvent("session:restored"));
    document.dispatchEvent(new CustomEvent("list:refresh"));
  }

  // The read marker, moved by message-thread's scroll: a small write of its own.
  async seen({ position, url }) {
    const headers = { "X-CSRFToken": document.querySelector("meta[name=csrf]").content, "X-Requested-With": "fetch" };
    const answer = await fetch(url, { method: "POST", headers, body: new URLSearchParams({ position }) }).catch(() => null);
    if (answer?.ok) document.dispatchEvent(new CustomEvent("list:refresh"));
  }
}

customElements.define("session-guard", SessionGuard);
