/** The video element: plays a file, or a moment of it to its end. */

import * as api from "./api.js";
import { $ } from "./dom.js";

export class Player {
  /** @param {(seconds: number) => void} tick - receives the time. */
  constructor(tick) {
    this.video = $("#player");
    this.id = null;
    this.end = null; // where to stop, of a moment that plays
    this.tick = tick;
    this.video.addEventListener("error", () => {
      $("#unplayable").hidden = !this.video.hasAttribute("src");
    });
    this.video.addEventListener("seeking", () => this.follow());
    this.video.addEventListener("timeupdate", () => this.follow());
    this.video.addEventListener("play", () => this.watch());
  }

  open(id) {
    if (id === this.id) return;
    this.id = id;
    this.end = null;
    $("#unplayable").hidden = true;
    if (id === null) {
      this.video.removeAttribute("src");
      this.video.load();
    } else {
      this.video.src = api.fileOf(id);
    }
  }

  get time() {
    return this.video.currentTime;
  }

  seek(seconds) {
    this.end = null;
    this.jump(seconds);
  }

  /** Play from `start`, and pause at `end` once. */
  play(start, end) {
    this.jump(start);
    this.end = end;
    this.video.play().catch(() => {}); // a browser may ask for a click first
  }

  toggle() {
    if (this.video.paused) this.video.play().catch(() => {});
    else this.video.pause();
  }

  jump(seconds) {
    const go = () => {
      this.video.currentTime = Math.max(0, Math.min(seconds, this.video.duration || seconds));
    };
    if (this.video.readyState >= HTMLMediaElement.HAVE_METADATA) go();
    else this.video.addEventListener("loadedmetadata", go, { once: true });
  }

  /** Follow frame by frame while it plays; events come four times a second. */
  watch() {
    this.follow();
    if (!this.video.paused) requestAnimationFrame(() => this.watch());
  }

  follow() {
    if (this.end !== null && !this.video.seeking && this.time >= this.end) {
      this.end = null;
      this.video.pause();
    }
    this.tick(this.time);
  }
}
