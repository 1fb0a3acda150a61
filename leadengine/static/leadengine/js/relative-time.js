// <relative-time datetime mode="short|wait">: the server writes the first text, this keeps it true by the server's clock.
const MINUTE = 60000;
let offset = 0;
const all = new Set();
const words = () => JSON.parse(document.querySelector("#words")?.textContent ?? "{}");

class RelativeTime extends HTMLElement {
  connectedCallback() {
    all.add(this);
    this.when = Date.parse(this.getAttribute("datetime"));
  }

  disconnectedCallback() {
    all.delete(this);
  }

  show(now, texts) {
    const text = this.getAttribute("mode") === "wait" ? this.wait(now, texts) : this.short(now, texts);
    const target = this.querySelector("[data-text]") ?? this;
    if (text && target.textContent !== text) target.textContent = text;
  }

  // Waiting: grey below half of the target, amber from there, red and in words when it has passed.
  wait(now, texts) {
    const waited = now - this.when, target = Number(this.dataset.target) * MINUTE;
    this.dataset.level = waited >= target ? "late" : waited >= target / 2 ? "soon" : "calm";
    return waited >= target ? texts.late.replace("{time}", span(waited - target, texts)) : span(waited, texts);
  }

  // Older than an hour stays what the server wrote: a time, a weekday or a date in the tenant's zone.
  short(now, texts) {
    const age = now - this.when;
    if (age < MINUTE) return texts.now;
    return age < 60 * MINUTE ? span(age, texts) : this.dataset.then;
  }
}

function span(ms, texts) {
  const minutes = Math.max(0, Math.floor(ms / MINUTE));
  if (minutes < 60) return texts.minutes.replace("{n}", minutes);
  if (minutes < 48 * 60) return texts.hours.replace("{n}", Math.floor(minutes / 60));
  return texts.days.replace("{n}", Math.floor(minutes / 1440));
}

function tick() {
  const texts = words(), now = Date.now() + offset;
  if (texts.now) for (const one of all) one.show(now, texts);
}

document.addEventListener("live:ready", ({ detail }) => {
  offset = Date.parse(detail.serverTime) - Date.now();
  tick();
});
customElements.define("relative-time", RelativeTime);
setInterval(tick, 15000);
