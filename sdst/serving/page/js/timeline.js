/** The video's time as a line: frames, the saliency curve, the moments, where the player is. */

import * as api from "./api.js";
import { $, h, svg } from "./dom.js";
import { clock } from "./format.js";

const FRAMES = 12;
const LANE = 28; // pixels
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
const WIDTH = 1000; // of the curve's drawing, which is stretched

export class Timeline {
  /** @param {{seek: (seconds: number) => void, choose: (index: number) => void}} on */
  constructor(on) {
    this.root = $("#timeline");
    this.on = on;
    this.video = null;
  }

  /** Draw a video; `answer` may be missing. */
  show(video, answer, moments) {
    this.video = video;
    this.head = h("div.head", { "aria-hidden": "true" });
    this.shade = h("div.shade", { hidden: true });
    this.lanes = lanesOf(moments, video.duration, (index) => this.on.choose(index));
    this.track = h(
      "div.track",
      {
        role: "slider",
        tabindex: "0",
        "aria-label": "Position in the video",
        "aria-valuemin": "0",
        "aria-valuemax": video.duration.toFixed(1),
      },
      strip(video),
      answer ? graph(answer, video.duration) : h("div.no-curve", {}, hint(video)),
      this.shade,
      this.head,
    );
    this.track.addEventListener("pointerdown", (event) => this.drag(event));
    this.track.addEventListener("pointermove", (event) => this.peek(event));
    this.track.addEventListener("pointerleave", () => this.endPeek());
    this.root.replaceChildren(this.track, this.lanes, ticks(video.duration));
    this.at(0);
  }

  /** Move the head. */
  at(seconds) {
    if (!this.video) return;
    this.head.style.left = `${100 * Math.min(seconds / this.video.duration, 1)}%`;
    this.track.setAttribute("aria-valuenow", seconds.toFixed(1));
    this.track.setAttribute("aria-valuetext", clock(seconds));
  }

  /** Mark a moment, or none. */
  mark(moments, active) {
    for (const span of this.lanes.children) {
      span.classList.toggle("active", Number(span.dataset.index) === active);
    }
    this.shade.hidden = active === null;
    if (active === null) return;
    const { start, end } = moments[active];
    this.shade.style.left = `${(100 * start) / this.video.duration}%`;
    this.shade.style.width = `${(100 * (end - start)) / this.video.duration}%`;
  }

  secondsAt(event) {
    const box = this.track.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    return Math.max(0, Math.min(share, 1)) * this.video.duration;
  }

  drag(event) {
    this.track.setPointerCapture(event.pointerId);
    this.on.seek(this.secondsAt(event));
    const move = (later) => this.on.seek(this.secondsAt(later));
    this.track.addEventListener("pointermove", move);
    const end = () => this.track.removeEventListener("pointermove", move);
    this.track.addEventListener("pointerup", end, { once: true });
    this.track.addEventListener("pointercancel", end, { once: true });
  }

  /** The frame under the pointer. */
  peek(event) {
    const seconds = this.secondsAt(event);
    this.endPeek();
    const step = Math.max(this.video.duration / 100, 0.5);
    const at = Math.round(seconds / step) * step;
    this.bubble = h(
      "div.peek", {}, h("img", { src: api.thumbnail(this.video.id, at), alt: "" }), clock(seconds),
    );
    this.bubble.style.left = `${(100 * seconds) / this.video.duration}%`;
    this.track.append(this.bubble);
  }

  endPeek() {
    this.bubble?.remove();
  }
}

function hint(video) {
  if (video.state === "ready") return "Describe a moment to see where it is";
  return video.state === "failed" ? "" : "The curve comes once the video is encoded";
}

function strip(video) {
  const frames = Array.from({ length: FRAMES }, (_, i) =>
    h("img", {
      src: api.thumbnail(video.id, ((i + 0.5) / FRAMES) * video.duration),
      alt: "",
      draggable: "false",
    }),
  );
  return h("div.strip", { "aria-hidden": "true" }, ...frames);
}

/** The curve over its whole range; a clip's value stands at its middle. */
function graph(answer, duration) {
  const [height, margin] = [100, 6];
  const values = answer.saliency;
  const low = Math.min(0, ...values);
  const range = Math.max(...values) - low || 1;
  const y = (value) => height - margin - ((value - low) / range) * (height - 2 * margin);
  const x = (clip) => (Math.min((clip + 0.5) * answer.clip_length, duration) / duration) * WIDTH;
  const points = values.map((value, clip) => [x(clip), y(value)]);
  const first = [0, points[0][1]];
  const last = [WIDTH, points.at(-1)[1]];
  const line = smooth([first, ...points, last]);
  const fade = svg("linearGradient", { id: "fade", x1: 0, y1: 0, x2: 0, y2: 1 });
  fade.append(
    svg("stop", { offset: 0, "stop-opacity": 0.42 }), svg("stop", { offset: 1, "stop-opacity": 0.03 }),
  );
  return svg(
    "svg",
    {
      class: "graph", viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none",
      role: "img", "aria-label": "How well each second fits the sentence",
    },
    svg("defs", {}, fade),
    svg("line", { class: "zero", x1: 0, x2: WIDTH, y1: y(0), y2: y(0) }),
    svg("path", { class: "area", d: `${line}L${WIDTH} ${height}L0 ${height}Z` }),
    svg("path", { class: "curve", d: line }),
  );
}

/** A quadratic spline along points; it never leaves the range of its neighbours. */
function smooth(points) {
  let path = `M${points[0]}`;
  for (let i = 1; i < points.length - 1; i++) {
    const [[x0, y0], [x1, y1]] = [points[i], points[i + 1]];
    path += `Q${x0} ${y0} ${(x0 + x1) / 2} ${(y0 + y1) / 2}`;
  }
  return `${path}L${points.at(-1)}`;
}

/** The moments under the curve, the best on top, others below where they would overlap. */
function lanesOf(moments, duration, choose) {
  const lanes = [];
  const best = moments[0]?.score || 1;
  const least = 0.03 * duration; // the width of a number
  const spans = moments.map(({ start, end, score }, index) => {
    const stop = Math.max(end, start + least);
    let lane = lanes.findIndex((taken) => taken.every(([a, b]) => stop <= a || b <= start));
    if (lane < 0) lane = lanes.push([]) - 1;
    lanes[lane].push([start, stop]);
    const span = h(
      "button.span",
      {
        type: "button",
        "data-index": index,
        "aria-label": `Moment ${index + 1}, ${clock(start)} to ${clock(end)}`,
        onclick: () => choose(index),
      },
      String(index + 1),
    );
    span.style.left = `${(100 * start) / duration}%`;
    span.style.width = `${(100 * (end - start)) / duration}%`;
    span.style.top = `${8 + lane * LANE}px`;
    span.style.setProperty("--strength", `${Math.round(10 + 60 * Math.max(score / best, 0))}%`);
    return span;
  });
  const root = h("div.lanes", { role: "group", "aria-label": "Moments on the time line" }, ...spans);
  root.style.height = `${lanes.length ? 4 + lanes.length * LANE : 0}px`;
  return root;
}

function ticks(duration) {
  const step = STEPS.find((seconds) => duration / seconds <= 10) ?? STEPS.at(-1);
  const marks = [];
  for (let seconds = 0; seconds < duration - step / 3; seconds += step) {
    const mark = h("span", {}, clock(seconds, false));
    mark.style.left = `${(100 * seconds) / duration}%`;
    marks.push(mark);
  }
  return h("div.ticks", { "aria-hidden": "true" }, ...marks);
}
