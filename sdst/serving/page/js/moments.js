/** Ranked moments as cards: of one video beside it, of all videos as a grid. */

import * as api from "./api.js";
import { attempt } from "./dialogs.js";
import { $, h, icon } from "./dom.js";
import { clock } from "./format.js";

const FORMATS = {
  csv: "Table", json: "Records", srt: "Subtitles", vtt: "Subtitles",
  edl: "Edit list", otio: "Time line", fcpxml: "Final Cut",
};
const OF_ONE_VIDEO = ["srt", "vtt"];

/**
 * A moment.
 * @param {{video: string, name: string, query: string, rank: number, start: number, end: number,
 *          score: number}} moment
 * @param {number} best - score that fills the meter.
 */
export function momentCard(moment, best, { choose, named }) {
  const go = h(
    "button.go",
    { type: "button", onclick: choose },
    `${clock(moment.start)} – ${clock(moment.end)}`,
  );
  const meter = h("i");
  meter.style.width = `${Math.max(0, Math.min((100 * moment.score) / best, 100))}%`;
  const cut = h(
    "button.cut.quiet",
    {
      type: "button",
      title: "Save as a video file",
      "aria-label": `Save moment ${moment.rank} as a video file`,
      onclick: () => attempt(() => api.saveClip(
        { id: moment.video, name: moment.name }, moment.start, moment.end,
      )),
    },
    icon("clip"),
  );
  return h(
    "li.moment",
    {},
    h(
      "div.shot",
      {},
      h("img.thumb", {
        src: api.thumbnail(moment.video, (moment.start + moment.end) / 2), alt: "", loading: "lazy",
      }),
      h("span.rank", { "aria-label": `Rank ${moment.rank}` }, String(moment.rank)),
    ),
    h(
      "div.info",
      {},
      named ? h("div.name", {}, moment.name) : null,
      go,
      h(
        "div.score",
        { title: "The model's score of this moment" },
        h("div.meter", { "aria-hidden": "true" }, meter),
        h("span", {}, h("span.unseen", {}, "score "), moment.score.toFixed(2)),
      ),
    ),
    cut,
  );
}

/** Fill an export menu for moments. */
export function exportMenu(menu, formats, moments) {
  const shown = moments.map(({ video, query, rank, start, end, score }) => ({
    video, query, rank, start, end, score,
  }));
  const several = new Set(shown.map((moment) => moment.video)).size > 1;
  const items = formats
    .filter((format) => !(several && OF_ONE_VIDEO.includes(format)))
    .map((format) =>
      h(
        "button",
        {
          type: "button",
          onclick: () => {
            menu.open = false;
            attempt(() => api.exportMoments(format, shown));
          },
        },
        FORMATS[format] ?? format,
        h("code", {}, `.${format}`),
      ),
    );
  $(".menu-items", menu).replaceChildren(...items);
  menu.hidden = !moments.length;
}

/** The moments of an answer, as cards and exports take them. */
export const momentsOf = (video, answer) =>
  answer.moments.map(([start, end, score], i) => ({
    video: video.id, name: video.name, query: answer.query, rank: i + 1, start, end, score,
  }));
