/** The page: what is open is in the address, `#v=<video>&q=<sentence>&p=<presence>`, to be shared. */

import * as api from "./api.js";
import { attempt, toast } from "./dialogs.js";
import { $ } from "./dom.js";
import { bytes, clock, percent, plural } from "./format.js";
import { listen } from "./keys.js";
import { isSettled, Library } from "./library.js";
import { exportMenu, momentCard, momentsOf } from "./moments.js";
import { Player } from "./player.js";
import { restoreTheme, toggleTheme } from "./theme.js";
import { Timeline } from "./timeline.js";

const TOP = 5; // moments of a video
const TOP_OF_ALL = 24;
const WEAK = 0.05; // share of the best score below which a moment is shown on request

let about = null;
let place = { video: null, query: "", all: false, least: 0 }; // what the address says
let answered = null; // the place and video state that the views show
let moments = []; // ranked, of the open video
let active = null; // index of the moment that was chosen
let chosen = null; // a moment of the search's, to play once its video is open

const library = new Library({
  changed: update,
  removed: (id) => id === place.video && go({ video: null }),
  open: (id) => go({ video: id, all: false }),
  uploaded: (video) => go({ video: video.id, all: false, query: "" }),
});
const player = new Player((seconds) => {
  timeline.at(seconds);
  unmark(seconds);
});
const timeline = new Timeline({ seek: (seconds) => player.seek(seconds), choose });

/** Change what is open, by the address. */
function go(change) {
  const next = { ...place, ...change };
  const parts = new URLSearchParams();
  if (next.video) parts.set("v", next.video);
  if (next.query) parts.set("q", next.query);
  if (next.all && next.query) parts.set("all", "1");
  if (next.least) parts.set("p", next.least);
  const hash = `#${parts}`;
  if (hash === location.hash || (hash === "#" && !location.hash)) read();
  else location.hash = hash;
}

/** Take over what the address says. */
function read() {
  readAddress();
  update();
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const least = about.presence ? leastOf(parts.get("p")) : 0;
  place = { video: parts.get("v"), query: parts.get("q") ?? "", all: parts.has("all"), least };
  $("#least").value = place.least;
  $("#query").value = place.query;
  if (place.query) setScope(place.all);
}

/** A presence that the page offers. */
const leastOf = (text) => [...$("#least").options].find((option) => option.value === text) ? Number(text) : 0;

/** Show what the address asks for, as far as the server has it by now. */
function update() {
  const video = library.find(place.video);
  if (place.video && !video && library.videos.length) place = { ...place, video: null };
  if (library.current !== place.video) library.select(place.video);
  if (!place.video && !(place.all && place.query) && library.videos.length) {
    return go({ video: library.videos[0].id });
  }
  $("#start").hidden = library.videos.length > 0 || library.uploads.length > 0;
  $("#found").hidden = !(place.all && place.query);
  $("#watch").hidden = !video || !$("#found").hidden;
  $("input[value=all]").disabled = library.videos.length < 2;
  if (!$("#found").hidden) showFound();
  else if (video) showVideo(video);
  else player.open(null);
}

function showVideo(video) {
  const state = `${video.id} ${place.query} ${place.least} ${isSettled(video)}`;
  showJob(video);
  if (answered === state) return;
  const isOther = player.id !== video.id;
  answered = state;
  player.open(video.id);
  $("#title").textContent = video.name;
  document.title = `${video.name} · sdst`;
  const size = `${video.width} × ${video.height}`;
  $("#facts").textContent = `${clock(video.duration, false)} · ${size} · ${bytes(video.size)}`;
  if (isOther || !place.query) showMoments(video, null);
  if (place.query && video.state === "ready") ask(video, state);
}

function showJob(video) {
  const job = $("#job");
  job.hidden = video.state === "ready";
  job.classList.toggle("failed", video.state === "failed");
  const text = {
    waiting: "Waits to be encoded. You can watch it already.",
    encoding: `Encoding, ${percent(video.progress)}. You can watch it already.`,
    failed: video.error,
  }[video.state];
  if (text && job.textContent !== text) job.textContent = text;
}

async function ask(video, state) {
  $("#ranked").classList.add("busy");
  const answer = await attempt(() => api.ground(video.id, place.query, TOP, place.least));
  $("#ranked").classList.remove("busy");
  if (answered !== state) return; // another question was asked meanwhile
  if (!answer) {
    answered = null; // so that the same question may be asked again
    return;
  }
  showMoments(video, answer);
  const first = moments.findIndex((x) => chosen && x.start === chosen.start && x.end === chosen.end);
  if (first >= 0) choose(first);
  else if (chosen) player.play(chosen.start, chosen.end);
  chosen = null;
}

/** Fill the time line and the ranked list; without an answer they are empty. */
function showMoments(video, answer) {
  moments = answer ? momentsOf(video, answer) : [];
  active = null;
  const time = player.id === video.id ? player.time : 0;
  timeline.show(video, answer, moments);
  timeline.at(time);
  const best = moments[0]?.score;
  const cards = moments.map((moment, i) => momentCard(moment, best, { choose: () => choose(i) }));
  $("#ranked").replaceChildren(...cards);
  exportMenu($("#export"), about.formats, moments);
  const asked = $("#asked");
  if (!answer) {
    asked.textContent = "Describe what happens, in a sentence: “a dog jumps into the lake”.";
    if (about.demo) asked.textContent = "Try “the red ball moves to the left”: this model knows the demo's moving shapes.";
    return;
  }
  const quote = document.createElement("q");
  quote.textContent = answer.query;
  asked.replaceChildren(quote);
  if (answer.presence != null && answer.presence < 0.5) {
    doubt(asked, `Probably not in this video (presence ${percent(answer.presence)}).`);
  }
  if (answer.unread) doubt(asked, `Too long; not read: “${answer.unread}”`);
  if (!moments.length) doubt(asked, "No moment of this video fits.");
}

function doubt(asked, text) {
  const line = document.createElement("span");
  line.className = "doubt";
  line.textContent = text;
  asked.append(line);
}

/** Play a ranked moment. */
function choose(index) {
  if (!moments[index]) return;
  active = index;
  mark();
  player.play(moments[index].start, moments[index].end);
  $("#ranked").children[index].scrollIntoView({ block: "nearest" });
}

/** A moment is no longer the chosen one when the player has left it. */
function unmark(seconds) {
  if (active === null || player.video.seeking) return;
  const { start, end } = moments[active];
  if (seconds >= start - 0.5 && seconds <= end + 0.5) return;
  active = null;
  mark();
}

function mark() {
  timeline.mark(moments, active);
  [...$("#ranked").children].forEach((card, i) => card.classList.toggle("active", i === active));
}

async function showFound() {
  const ready = library.videos.filter((video) => video.state === "ready").length;
  const state = `all ${place.query} ${place.least} ${ready}`;
  if (answered === state) return;
  answered = state;
  player.open(null);
  document.title = `${place.query} · sdst`;
  $("#found-title").textContent = `“${place.query}”`;
  $("#grid").classList.add("busy");
  const answer = await attempt(() => api.search(place.query, TOP_OF_ALL, place.least));
  $("#grid").classList.remove("busy");
  if (answered !== state) return;
  if (!answer) {
    answered = null;
    return;
  }
  const found = answer.moments.map((moment, i) => ({ ...moment, query: answer.query, rank: i + 1 }));
  const waiting = library.videos.length - answer.encoded;
  const ruledOut = answer.encoded - answer.searched - answer.skipped;
  $("#found-facts").textContent =
    (ruledOut > 0
      ? `the likeliest ${answer.searched} of ${plural(answer.encoded, "video")} searched`
      : `${plural(answer.searched, "video")} searched`) +
    (waiting > 0 ? `; ${waiting} not encoded yet` : "");
  const strong = found.filter((moment) => moment.score >= WEAK * found[0]?.score);
  $("#weaker").hidden = strong.length === found.length;
  $("#weaker").onclick = () => {
    $("#weaker").hidden = true;
    showGrid(found);
  };
  showGrid(strong);
}

function showGrid(found) {
  const cards = found.map((moment) =>
    momentCard(moment, found[0]?.score, { named: true, choose: () => openFound(moment) }));
  $("#grid").replaceChildren(...cards);
  exportMenu($("#export-all"), about.formats, found);
}

function openFound(moment) {
  chosen = moment;
  go({ video: moment.video, all: false });
}

const isAll = () => $("input[name=scope]:checked").value === "all";
const setScope = (all) => {
  $(`input[value=${all ? "all" : "video"}]`).checked = true;
};

function nearby(step) {
  if (!moments.length) return;
  const order = moments.map((_, i) => i).sort((a, b) => moments[a].start - moments[b].start);
  const now = player.time;
  const next = step > 0
    ? order.find((i) => moments[i].start > now + 0.3)
    : order.reverse().find((i) => moments[i].start < now - 1);
  choose(next ?? order[0]);
}

function wire() {
  const files = $("#files");
  for (const id of ["#add", "#add-first"]) $(id).addEventListener("click", () => files.click());
  files.addEventListener("change", () => {
    library.add(files.files);
    files.value = "";
    update();
  });
  $("#ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const query = $("#query").value.trim();
    if (!query) return $("#query").focus();
    if (!library.videos.length) return toast("Add a video first.");
    answered = null;
    go({ query, all: isAll() });
    $("#query").blur();
  });
  for (const radio of document.getElementsByName("scope")) {
    radio.addEventListener("change", () => place.query && go({ all: isAll() }));
  }
  $("#least").addEventListener("change", () => go({ least: Number($("#least").value) }));
  $("#theme").addEventListener("click", toggleTheme);
  $("#keys").addEventListener("click", () => $("#shortcuts").showModal());
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll(".menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  addEventListener("hashchange", read);
  wireDrop();
  listen({
    "/": () => {
      $("#query").focus();
      $("#query").select();
    },
    a: () => {
      if ($("input[value=all]").disabled) return;
      setScope(!isAll());
      if (place.query) go({ all: isAll() });
    },
    u: () => files.click(),
    t: toggleTheme,
    "?": () => $("#shortcuts").showModal(),
    " ": () => player.toggle(),
    k: () => player.toggle(),
    arrowleft: (event) => player.seek(player.time - (event.shiftKey ? 5 : 1)),
    arrowright: (event) => player.seek(player.time + (event.shiftKey ? 5 : 1)),
    digit: (event) => choose(Number(event.key) - 1),
    n: () => nearby(1),
    p: () => nearby(-1),
    escape: () => document.querySelectorAll(".menu[open]").forEach((menu) => { menu.open = false; }),
  });
}

function wireDrop() {
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    $("#drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("#drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    $("#drop").hidden = true;
    if (!holdsFiles(event)) return;
    event.preventDefault();
    library.add(event.dataTransfer.files);
    update();
  });
}

async function start() {
  restoreTheme();
  wire();
  about = await api.about();
  library.mostBytes = about.max_upload;
  $("#least").hidden = !about.presence;
  $("#about").textContent = `${about.model} on ${about.device} · sdst ${about.version}`;
  readAddress();
  await library.refresh();
}

attempt(start);
