import { $, h } from "./dom.js";

/** Show a line for a while. */
export function toast(text) {
  const close = h("button", { "aria-label": "Dismiss", onclick: () => item.remove() }, "×");
  const item = h("div.toast", {}, h("span", {}, text), close);
  $("#toasts").append(item);
  setTimeout(() => item.remove(), 9000);
}

/** Run what the server may refuse, and show its line. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    toast(error.message);
    return undefined;
  }
}

/** Whether a video may go. */
export function confirmRemoval(name) {
  const dialog = $("#confirm");
  $("#confirm-title").textContent = `Delete ${name}?`;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "delete"), { once: true });
  });
}

let pending = null;

/**
 * Ask for the token until it is right; one dialog for all requests that wait.
 * @param {(token: string) => Promise<string>} open - gives what is wrong, or nothing.
 */
export function logIn(open) {
  pending ??= new Promise((resolve) => {
    const dialog = $("#login");
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    $("form", dialog).onsubmit = async (event) => {
      event.preventDefault();
      const fault = await open($("#token").value);
      $("#login-fault").textContent = fault;
      if (fault) return;
      dialog.close();
      pending = null;
      resolve();
    };
    dialog.showModal();
  });
  return pending;
}
