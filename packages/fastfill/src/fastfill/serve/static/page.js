"use strict";

const POLL_MS = 2000;
const $ = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") || "";
let latest = null;
let pictures = [];

class Refused extends Error {
  constructor(code, message) { super(message); this.code = code; }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, body.error || `the service answered ${answer.status}`);
}

const read = async (path, options) => (await ask(path, options)).json();

function tell(error) {
  const text = error ? error.message : "";
  if ($("message").textContent !== text) $("message").textContent = text;
  if (error && error.code === 401) $("token-form").hidden = false;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function drawing(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function showStatus() {
  const { counts, service } = latest;
  const number = (value) => value.toLocaleString("en");
  $("share").textContent = `${(100 * latest.progress).toFixed(1)} %`;
  $("progress").value = latest.progress;
  const state = latest.phase === "final" ? "finalised" : latest.paused ? "paused"
    : counts.waiting ? "backfilling" : "complete";
  if ($("state").textContent !== state) $("state").textContent = state;
  $("pause").disabled = latest.paused || latest.phase === "final";
  $("resume").disabled = !latest.paused;
  const facts = {
    "searched with": latest.serving,
    [latest.new]: number(counts.new),
    [latest.old.map((name) => `h(${name})`).join(", ")]: number(counts.transformed),
    waiting: number(counts.waiting), failed: number(counts.failed),
    "this service": service.role === "writer" ? "writes the gallery"
      : "follows another process that writes the gallery",
  };
  if (latest.items_per_s) {
    facts["items/s"] = latest.items_per_s.toFixed(1);
    facts["time left"] = duration(latest.seconds_left);
  }
  if (service.worker) facts.worker = service.worker;
  if (latest.predicted_quality !== null) {
    facts["predicted quality"] = latest.predicted_quality.toFixed(3);
  }
  if (service.problem) facts.problem = service.problem;
  const rows = Object.entries(facts);
  $("facts").replaceChildren(...rows.flatMap(([k, v]) => [element("dt", k), element("dd", v)]));
  $("failures").hidden = !latest.failures.length;
  $("failure-list").replaceChildren(
    ...latest.failures.map((failure) => element("li", `${failure.id}: ${failure.reason}`)));
  $("image-field").hidden = service.embeds !== "image";
  $("text-field").hidden = service.embeds !== "text";
  $("k").max = service.max_k;
}

function scale(points) {
  const values = points.map((point) => point[1]);
  const low = Math.min(...values), high = Math.max(...values);
  const room = (high - low) * 0.1 || 0.01;
  const y = (value) => 255 - 235 * (value - low + room) / (high - low + 2 * room);
  return { y, ends: values.length ? [low, high] : [] };
}

function showCurve(curve) {
  const { progress, predicted, measured } = curve;
  const all = [...predicted, ...measured];
  $("curve").toggleAttribute("hidden", !all.length); // SVG elements have no property of that name
  $("legend").hidden = $("points").hidden = !all.length;
  $("no-curve").hidden = all.length > 0;
  if (!all.length) return;
  // Two kinds of quality cannot be compared: each has an axis of its own.
  const same = curve.predicted_quality === curve.measured_quality;
  const left = scale(same ? all : measured), right = scale(same ? [] : predicted);
  const scales = { predicted: same ? left : right, measured: left };
  $("predicted-name").textContent =
    `predicted by the plan: ${curve.predicted_quality}${same ? "" : ", right axis"}`;
  $("measured-name").textContent = `measured on labelled items: ${curve.measured_quality}`;
  const x = (share) => 60 + 520 * share;
  const parts = [
    drawing("path", { class: "axis", d: same ? "M60 20V255H580" : "M60 20V255H580V20" }),
    drawing("line", { class: "now", x1: x(progress), x2: x(progress), y1: 20, y2: 255 }),
    drawing("text", { x: 320, y: 292, "text-anchor": "middle" }, "share of items done"),
    ...[0, 0.25, 0.5, 0.75, 1].map((share) => drawing(
      "text", { x: x(share), y: 273, "text-anchor": "middle" }, `${100 * share} %`)),
    ...left.ends.map((value) => drawing(
      "text", { x: 52, y: left.y(value) + 4, "text-anchor": "end" }, value.toFixed(3))),
    ...right.ends.map((value) => drawing(
      "text", { x: 588, y: right.y(value) + 4 }, value.toFixed(3))),
  ];
  for (const [name, points] of Object.entries({ predicted, measured })) {
    const line = points.map(([share, value]) => `${x(share)},${scales[name].y(value)}`).join(" ");
    parts.push(drawing("polyline", { class: name, points: line }));
  }
  for (const [share, value] of measured) {
    parts.push(drawing("circle", { class: "measured", cx: x(share), cy: left.y(value), r: 3 }));
  }
  $("curve").replaceChildren($("curve-name"), ...parts);
  const rows = Object.entries({ predicted, measured }).flatMap(([name, points]) => points.map(
    ([share, value]) => {
      const row = element("tr");
      row.append(element("td", name), element("td", share.toFixed(3)),
        element("td", value.toFixed(4)));
      return row;
    }));
  $("point-rows").replaceChildren(...rows);
}

async function showOriginal(place, item) {
  const kind = latest.service.originals;
  const path = `/api/items/${item.split("/").map(encodeURIComponent).join("/")}/${kind}`;
  const answer = await ask(path);
  if (kind === "text") {
    place.prepend(element("p", await answer.text()));
    return;
  }
  const picture = element("img");
  picture.src = URL.createObjectURL(await answer.blob());
  pictures.push(picture.src);
  picture.alt = `original of ${item}`;
  place.prepend(picture);
}

function showResults(found) {
  pictures.forEach((address) => URL.revokeObjectURL(address));
  pictures = [];
  const query = found.query ? `${found.query.id} (${found.query.version}): ` : "";
  $("found").textContent = `${query}${found.hits.length} results`;
  $("results").replaceChildren(...found.hits.map((hit) => {
    const place = element("li");
    const fresh = hit.version === latest.new ? "version new" : "version";
    place.append(element("span", hit.id, "id"), " ", element("span", hit.version, fresh), " ",
      element("small", `distance ${hit.distance.toPrecision(4)}`));
    if (latest.service.originals) {
      showOriginal(place, hit.id).catch(() => place.prepend(element("p", "no original")));
    }
    return place;
  }));
}

function queryRequest() {
  const file = $("image").files[0];
  const k = Number($("k").value), exact = $("exact").checked;
  if (file && !$("item").value) {
    const form = new FormData();
    form.append("image", file);
    form.append("k", String(k));
    form.append("exact", String(exact));
    return { method: "POST", body: form };
  }
  const what = $("item").value ? { id: $("item").value } : { text: $("text").value };
  if (!what.id && !what.text) throw new Error("choose an image, or give an id or a text");
  return {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...what, k, exact }),
  };
}

async function look() {
  latest = await read("/api/status");
  showStatus();
  showCurve(await read("/api/curve"));
}

async function poll() {
  try {
    await look();
    $("token-form").hidden = true;
    if ($("message").dataset.from === "poll") tell(null);
  } catch (error) {
    $("message").dataset.from = "poll";
    tell(error);
  }
  setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}

async function act(action) {
  $("message").dataset.from = "action";
  try {
    tell(null);
    await action();
  } catch (error) {
    tell(error);
  }
}

$("pause").addEventListener("click", () => act(async () => {
  await ask("/api/pause", { method: "POST" });
  await look();
}));
$("resume").addEventListener("click", () => act(async () => {
  await ask("/api/resume", { method: "POST" });
  await look();
}));
$("query").addEventListener("submit", (event) => {
  event.preventDefault();
  act(async () => showResults(await read("/api/query", queryRequest())));
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  sessionStorage.setItem("token", token);
  act(look).then(() => { $("token-form").hidden = latest !== null; });
});
poll();
