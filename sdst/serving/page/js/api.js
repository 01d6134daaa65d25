/** The REST interface. What the server refuses is an Error with its one line. */

import { logIn } from "./dialogs.js";

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is it running?");
  }
  if (response.status === 401) {
    await logIn(openSession);
    return request(path, options);
  }
  if (!response.ok) throw new Error(await line(response));
  return response;
}

/** Exchange the token for a cookie; the server's line where it is wrong. */
async function openSession(token) {
  const response = await fetch("api/session", asJson({ token }));
  return response.ok ? "" : line(response);
}

async function line(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `the server answered ${response.status}`;
  }
}

const asJson = (content) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(content),
});

const json = async (path, options) => (await request(path, options)).json();

export const about = () => json("api/about");
export const videos = () => json("api/videos");
export const remove = (id) => request(`api/videos/${id}`, { method: "DELETE" });
export const ground = async (id, query, top, min_presence) =>
  (await json(`api/videos/${id}/ground`, asJson({ queries: [query], top, min_presence }))).answers[0];
export const search = async (query, top, min_presence) =>
  (await json("api/search", asJson({ queries: [query], top, min_presence }))).answers[0];

export const fileOf = (id) => `api/videos/${id}/file`;
export const thumbnail = (id, at) => `api/videos/${id}/thumbnail?at=${at.toFixed(1)}`;

/** Have moments written in a format and save the file. */
export async function exportMoments(format, moments) {
  const response = await request("api/export", asJson({ format, moments }));
  save(await response.blob(), `moments.${format}`);
}

/** Have a moment cut from its video and save the file. */
export async function saveClip(video, start, end) {
  const response = await request(`api/videos/${video.id}/clip?start=${start}&end=${end}`);
  const stem = video.name.replace(/\.[^.]*$/, "");
  save(await response.blob(), `${stem}.${Math.round(start)}-${Math.round(end)}.mp4`);
}

/**
 * Send a file, the page's only request with progress.
 * @param {(share: number) => void} report
 * @returns {Promise<object>} the video
 */
export function upload(file, report) {
  return new Promise((resolve, reject) => {
    const sent = new XMLHttpRequest();
    sent.open("POST", `api/videos?name=${encodeURIComponent(file.name)}`);
    sent.setRequestHeader("Content-Type", "application/octet-stream");
    sent.responseType = "json";
    sent.upload.onprogress = (event) => report(event.loaded / event.total);
    sent.onload = () =>
      sent.status === 201
        ? resolve(sent.response)
        : reject(new Error(sent.response?.error ?? `the server answered ${sent.status}`));
    sent.onerror = () => reject(new Error(`${file.name}: the connection broke; try again`));
    sent.send(file);
  });
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
