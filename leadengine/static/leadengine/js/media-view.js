// Files of messages: pictures open large, with arrow keys and a click to zoom; of all players one at a time, at the
// speed that was chosen last.
const RATES = [1, 1.5, 2];

class MediaView extends HTMLElement {
  connectedCallback() {
    this.dialog = this.querySelector("dialog");
    this.large = document.createElement("img");
    this.rate = Number(sessionStorage.getItem("media:rate")) || 1;
    document.addEventListener("click", (event) => this.click(event));
    document.addEventListener("play", ({ target }) => this.playing(target), true);
    document.addEventListener("keydown", (event) => this.dialog.open && this.press(event));
    this.dialog.addEventListener("close", () => this.large.remove());
  }

  click(event) {
    const at = (selector) => event.target.closest(selector);
    const picture = at("a[data-picture]");
    if (picture && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      this.show(picture);
      this.dialog.prepend(this.large);
      this.dialog.showModal();
    } else if (at("[data-rate]")) this.faster();
    else if (at("media-view [data-step]")) this.step(Number(at("[data-step]").dataset.step));
    else if (event.target === this.large) this.large.classList.toggle("is-zoomed");
  }

  press(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    this.step(by);
  }

  get pictures() {
    return [...document.querySelectorAll("a[data-picture]")];
  }

  show(picture) {
    this.current = picture.href;
    this.large.classList.remove("is-zoomed");
    this.large.src = picture.href;
    this.large.alt = picture.querySelector(".picture-file").alt;
    this.querySelector("[data-save]").href = picture.href;
    const here = this.pictures.indexOf(picture);
    this.querySelector("[data-step='-1']").disabled = here <= 0;
    this.querySelector("[data-step='1']").disabled = here >= this.pictures.length - 1;
  }

  step(by) {
    const here = this.pictures.findIndex((one) => one.href === this.current);
    const next = here >= 0 && this.pictures[here + by];
    if (next) this.show(next);
  }

  playing(player) {
    for (const other of document.querySelectorAll("audio, video")) if (other !== player) other.pause();
    player.playbackRate = this.rate;
    this.tellRate();
  }

  faster() {
    this.rate = RATES[(RATES.indexOf(this.rate) + 1) % RATES.length];
    sessionStorage.setItem("media:rate", this.rate);
    for (const player of document.querySelectorAll("audio, video")) player.playbackRate = this.rate;
    this.tellRate();
  }

  tellRate() {
    for (const text of document.querySelectorAll("[data-rate] [data-text]")) text.textContent = `${this.rate.toLocaleString()}×`;
  }
}

customElements.define("media-view", MediaView);
