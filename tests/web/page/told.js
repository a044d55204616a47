// What the page is told and what it shows, told to the test in the same order.
let last = Promise.resolve();
function tell(what) {
  last = last.then(() => fetch("/told", { method: "POST", body: JSON.stringify(what) }));
}
window.EventSource = class extends EventSource {
  constructor(path) {
    super(REGISTRY + path); // the registry's origin is not the page's
    this.addEventListener("open", () => tell({ opened: true }));
    this.addEventListener("error", () => tell({ broken: this.readyState === EventSource.CLOSED ? "for good" : "for now" }));
    this.addEventListener("message", ({ data }) => tell({ message: JSON.parse(data) }));
  }
};
new MutationObserver(() => tell({ shown: Array.from(document.querySelectorAll("li"), (item) => item.textContent) }))
  .observe(document.querySelector("ul"), { childList: true });
