// Tabs, sorting and the next rows: fetches the fragment and hands it to the list it stands in (event list:page).
const MOST_ROWS = 500, AHEAD = 600;

class ListPages extends HTMLElement {
  connectedCallback() {
    this.list = this.closest("inbox-list");
    this.scroller = this.querySelector(".list-scroll");
    this.addEventListener("click", (event) => this.click(event));
    this.scroller.addEventListener("scroll", () => this.more(), { passive: true });
  }

  async load(url) {
    try {
      const answer = await fetch(url, { headers: { "X-Requested-With": "fetch" } });
      return answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
    } catch {
      return null;
    }
  }

  give(page, append) {
    this.list.dispatchEvent(new CustomEvent("list:page", { detail: { page, append } }));
  }

  // The choice stands in the address, so that a reload and a copied link show the same list.
  async click(event) {
    const link = event.target.closest("a[data-tab], a[data-sort]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    link.closest("details")?.removeAttribute("open");
    const page = await this.load(link.dataset.fragment);
    if (!page) return void location.assign(link.href);
    const { tab, sort } = page.querySelector("[data-list]").dataset;
    Object.assign(this.list.dataset, { tab, sort });
    for (const part of ["[data-tabs]", "[data-sorts]"])
      this.querySelector(part).replaceWith(document.importNode(page.querySelector(part), true));
    this.querySelector(`a[data-tab="${tab}"]`)?.focus({ preventScroll: true });
    this.give(page, false);
    history.replaceState(history.state, "", `${location.pathname}?${new URLSearchParams({ tab, sort })}`);
  }

  async more() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const next = this.querySelector("[data-more]");
    if (!next || this.busy || scrollHeight - scrollTop - clientHeight > AHEAD) return;
    if (this.querySelector("[data-rows]").children.length >= MOST_ROWS) return;
    this.busy = true;
    const page = await this.load(next.dataset.more);
    this.busy = false;
    if (page) this.give(page, true);
  }
}

customElements.define("list-pages", ListPages);
