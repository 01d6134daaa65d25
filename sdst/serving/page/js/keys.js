/** Keys of the page; inside of fields and dialogs they are the browser's. */

const isTyping = (target) =>
  target.closest("dialog[open], textarea, select") ||
  (target.matches("input") && target.type !== "radio");

/** @param {Record<string, (event: KeyboardEvent) => void>} actions - by key, lower case. */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    // These press a button or move a choice that has the focus.
    if ([" ", "Enter"].includes(event.key) && event.target.closest("button, a, summary")) return;
    if (event.key.startsWith("Arrow") && event.target.matches("input")) return;
    if (event.target.matches("video")) return; // has keys of its own
    const key = /^[1-9]$/.test(event.key) ? "digit" : event.key.toLowerCase();
    if (!actions[key]) return;
    event.preventDefault();
    actions[key](event);
  });
}
