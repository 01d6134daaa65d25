/** The list of videos, uploads in front of it. Reports changes on the server to the page. */

import * as api from "./api.js";
import { attempt, confirmRemoval, toast } from "./dialogs.js";
import { $, h, icon } from "./dom.js";
import { bytes, clock, percent } from "./format.js";

const SOON = 700; // ms until the next look while a video is encoded
const LATER = 10_000; // and else, as others may upload

export class Library {
  /** @param {{changed: () => void, removed: (id: string) => void, open: (id: string) => void,
   *           uploaded: (video: object) => void}} on */
  constructor(on) {
    this.videos = [];
    this.mostBytes = Infinity;
    this.on = on;
    this.uploads = [];
    this.current = null;
    this.cards = new Map();
  }

  async refresh() {
    clearTimeout(this.timer);
    try {
      this.videos = await api.videos();
      this.show();
      this.on.changed();
    } finally {
      const busy = this.videos.some((video) => !isSettled(video));
      this.timer = setTimeout(() => this.refresh().catch(() => {}), busy ? SOON : LATER);
    }
  }

  find(id) {
    return this.videos.find((video) => video.id === id);
  }

  select(id) {
    this.current = id;
    this.show();
  }

  /** Send files one after the other; each is in the list while it is sent. */
  async add(files) {
    const queue = [...files].map((file) => ({ name: file.name, file, share: 0 }));
    this.uploads.push(...queue);
    this.show();
    for (const [index, entry] of queue.entries()) {
      try {
        if (entry.file.size > this.mostBytes) {
          throw new Error(`${entry.name}: ${bytes(entry.file.size)}, and the server takes ` +
            `${bytes(this.mostBytes)} at most`);
        }
        const video = await api.upload(entry.file, (share) => {
          entry.share = share;
          this.show();
        });
        this.uploads.splice(this.uploads.indexOf(entry), 1);
        await this.refresh();
        if (index === 0) this.on.uploaded(video);
      } catch (error) {
        this.uploads.splice(this.uploads.indexOf(entry), 1);
        this.show();
        toast(error.message);
      }
    }
  }

  show() {
    const list = $("#videos");
    const seen = new Set();
    const items = [
      ...this.uploads.map(uploadCard),
      ...this.videos.map((video) => {
        seen.add(video.id);
        return this.card(video);
      }),
    ];
    for (const id of this.cards.keys()) if (!seen.has(id)) this.cards.delete(id);
    // Only what differs is replaced, so that the focus stays where it is.
    items.forEach((item, i) => {
      if (list.children[i] !== item) list.insertBefore(item, list.children[i] ?? null);
    });
    while (list.children.length > items.length) list.lastChild.remove();
    $("#count").textContent = this.videos.length || "";
  }

  /** A video's card, the same one until what it shows has changed. */
  card(video) {
    const isCurrent = video.id === this.current;
    const key = [video.state, video.progress, isCurrent].join();
    const kept = this.cards.get(video.id);
    if (kept?.key === key) return kept.card;
    const card = this.newCard(video, isCurrent);
    const hadFocus = kept?.card.contains(document.activeElement);
    kept?.card.replaceWith(card);
    if (hadFocus) $(".open", card).focus();
    this.cards.set(video.id, { key, card });
    return card;
  }

  newCard(video, isCurrent) {
    const open = h(
      "button.open",
      {
        type: "button",
        title: video.name,
        "aria-current": isCurrent ? "true" : null,
        onclick: () => this.on.open(video.id),
      },
      h("div.name", {}, video.name),
      h(`div.status.${video.state}`, { title: video.error || null }, statusOf(video)),
      video.state === "encoding" ? bar(video.progress, `Encoding ${video.name}`) : null,
    );
    const poster = h("img.thumb", {
      src: api.thumbnail(video.id, video.duration / 3), alt: "", loading: "lazy",
    });
    const remove = h(
      "button.remove.quiet",
      { type: "button", "aria-label": `Delete ${video.name}`, onclick: () => this.remove(video) },
      icon("trash"),
    );
    return h(
      `li.card${isCurrent ? ".current" : ""}`, {}, poster, open, video.removable ? remove : null,
    );
  }

  async remove(video) {
    if (!(await confirmRemoval(video.name))) return;
    await attempt(async () => {
      await api.remove(video.id);
      this.on.removed(video.id);
      await this.refresh();
    });
  }
}

export const isSettled = (video) => video.state === "ready" || video.state === "failed";

function statusOf(video) {
  if (video.state === "waiting") return "Waits to be encoded";
  if (video.state === "encoding") return `Encoding ${percent(video.progress)}`;
  if (video.state === "failed") return "Cannot be encoded";
  return `${clock(video.duration, false)} · ${bytes(video.size)}`;
}

function uploadCard(entry) {
  const text = entry.share < 1 ? `Uploading ${percent(entry.share)}` : "Checking the file";
  return h(
    "li.card",
    {},
    h("div.thumb.poster", {}, icon("film")),
    h(
      "div",
      {},
      h("div.name", {}, entry.name),
      h("div.status", {}, text),
      bar(entry.share, `Uploading ${entry.name}`),
    ),
  );
}

const bar = (share, label) => h("progress", { value: share, max: 1, "aria-label": label });
