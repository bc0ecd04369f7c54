// The page asks once a second for what is new, and shows it. Nothing from outside is ever taken for HTML: all of it goes
// in as text.
"use strict";

const WINDOW_SECONDS = 300;
const KEPT_MAILS = 50; // that were accepted, and as many others
const ASK_MILLISECONDS = 1000;
const PATIENCE_MILLISECONDS = 5000;
const SVG = "http://www.w3.org/2000/svg";
const VERDICTS = { accepted: "Accepted", discarded: "Discarded", refused: "Refused", failed: "Deferred" };
const STATES = { serving: "Serving", stopping: "Stopping", failing: "Not well", lost: "No connection", paused: "Paused" };

const at = (id) => document.getElementById(id);
const known = { run: "", moment: 0, mail: 0, moments: [], paused: false };

// Numbers as people read them

const few = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const many = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const count = (value) => (value < 100000 ? new Intl.NumberFormat("en").format(Math.round(value)) : many.format(value));
const rate = (value) => (value >= 1000 ? many.format(value) : few.format(value));

function octets(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${few.format(value)}\u00a0${units[unit]}`;
}

function duration(seconds) {
  if (seconds >= 1) return `${few.format(seconds)}\u00a0s`;
  const milliseconds = seconds * 1000;
  return `${milliseconds < 10 ? few.format(milliseconds) : Math.round(milliseconds)}\u00a0ms`;
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

// Building

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function say(id, text) {
  const element = at(id);
  if (element.textContent !== text) element.textContent = text;
}

// Plots

const PLOTS = [
  {
    title: "Mails a second",
    format: rate,
    stacked: true,
    lines: [
      { name: "accepted", color: "accepted", of: (one) => one.accepted },
      { name: "discarded", color: "discarded", of: (one) => one.discarded },
      { name: "refused", color: "refused", of: (one) => one.refused },
      { name: "deferred", color: "failed", of: (one) => one.failed },
    ],
  },
  {
    title: "Script time",
    format: duration,
    lines: [
      { name: "save, median", color: "brand", of: (one) => one.save && one.save[0] },
      { name: "save, 95 %", color: "brand", dashed: true, of: (one) => one.save && one.save[1] },
      { name: "checks, 95 %", color: "refused", dashed: true, of: (one) => one.check && one.check[1] },
    ],
  },
  {
    title: "Connections and queue",
    format: rate,
    lines: [
      { name: "open", color: "brand", of: (one) => one.open },
      { name: "new a second", color: "discarded", of: (one) => one.connections },
      { name: "requests waiting", color: "failed", of: (one) => one.waiting },
    ],
  },
  {
    title: "Octets received a second",
    format: octets,
    lines: [{ name: "received", color: "brand", filled: true, of: (one) => one.octets }],
  },
];

class Plot {
  constructor(spec, number) {
    this.spec = spec;
    this.chosen = null; // the time that the reader looks at; null is now
    this.box = make("div", "plot");
    const head = make("div", "plot-head");
    const title = make("h3", "", spec.title);
    title.id = `plot-${number}`;
    this.readout = make("output", "", "");
    head.append(title, this.readout);
    this.canvas = make("div", "canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "slider");
    this.canvas.setAttribute("aria-labelledby", title.id);
    this.canvas.setAttribute("aria-orientation", "horizontal");
    this.canvas.setAttribute("aria-valuemin", String(-WINDOW_SECONDS));
    this.canvas.setAttribute("aria-valuemax", "0");
    this.svg = draw("svg", { "aria-hidden": "true", focusable: "false" });
    this.canvas.append(this.svg);
    this.legend = make("ul", "legend");
    this.values = spec.lines.map((line) => {
      const item = make("li");
      const key = draw("svg", { viewBox: "0 0 28 14", "aria-hidden": "true" });
      key.append(draw("line", { x1: 1, y1: 7, x2: 27, y2: 7, "stroke-width": 3, class: `c-${line.color}${line.dashed ? " dashed" : ""}` }));
      const value = make("b", "", "–");
      item.append(key, make("span", "", line.name), value);
      this.legend.append(item);
      return value;
    });
    this.box.append(head, this.canvas, this.legend);
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.choose(null));
    this.canvas.addEventListener("blur", () => this.choose(null));
    new ResizeObserver(() => this.show()).observe(this.canvas);
  }

  press(event) {
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -30, PageUp: 30 };
    const moments = known.moments;
    if (!moments.length) return;
    let index = this.index();
    if (event.key in steps) index += steps[event.key];
    else if (event.key === "Home") index = 0;
    else if (event.key === "End" || event.key === "Escape") index = moments.length - 1;
    else return;
    event.preventDefault();
    index = Math.min(Math.max(index, 0), moments.length - 1);
    this.choose(index === moments.length - 1 ? null : moments[index].time);
  }

  point(event) {
    if (!known.moments.length) return;
    const area = this.canvas.getBoundingClientRect();
    const share = (event.clientX - area.left - this.left) / Math.max(area.width - this.left, 1);
    const last = known.moments[known.moments.length - 1].time;
    this.choose(last - (1 - Math.min(Math.max(share, 0), 1)) * WINDOW_SECONDS);
  }

  choose(time) {
    this.chosen = time;
    this.show();
  }

  index() {
    const moments = known.moments;
    if (this.chosen === null) return moments.length - 1;
    let best = 0;
    moments.forEach((one, number) => {
      if (Math.abs(one.time - this.chosen) < Math.abs(moments[best].time - this.chosen)) best = number;
    });
    return best;
  }

  show() {
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (!width || !height) return;
    const moments = known.moments;
    const { lines, stacked, format } = this.spec;
    const columns = moments.map((one) => lines.map((line) => line.of(one)));
    const tops = columns.map((values) => (stacked ? values.reduce((sum, value) => sum + (value || 0), 0) : Math.max(0, ...values.map((value) => value || 0))));
    const step = niceStep(Math.max(...tops, 0) / 4 || 0.25);
    const top = step * Math.max(Math.ceil(Math.max(...tops, 0) / step), 1);
    const labels = [];
    for (let value = 0; value <= top + step / 2; value += step) labels.push(value);
    this.left = 12 + 6.2 * Math.max(...labels.map((value) => format(value).length));
    const low = height - 20;
    const end = moments.length ? moments[moments.length - 1].time : 0;
    const x = (time) => width - ((end - time) / WINDOW_SECONDS) * (width - this.left);
    const y = (value) => low - (value / top) * (low - 8);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const parts = [];
    for (const value of labels) {
      parts.push(draw("line", { x1: this.left, x2: width, y1: y(value), y2: y(value), class: "grid" }));
      parts.push(draw("text", { x: this.left - 8, y: y(value) + 4, "text-anchor": "end", class: "tick" }, format(value)));
    }
    for (const minutes of width > 420 ? [5, 4, 3, 2, 1, 0] : [4, 2, 0]) {
      const anchor = minutes === 5 ? "start" : minutes === 0 ? "end" : "middle";
      const label = minutes === 0 ? "now" : `−${minutes} min`;
      parts.push(draw("text", { x: x(end - minutes * 60), y: height - 3, "text-anchor": anchor, class: "tick" }, label));
    }
    const floor = moments.map(() => 0);
    lines.forEach((line, number) => {
      const points = moments.map((one, index) => {
        const value = columns[index][number];
        if (value === null || value === undefined) return null;
        const base = stacked ? floor[index] : 0;
        if (stacked) floor[index] += value;
        return { x: x(one.time), y: y(base + value), base: y(base), time: one.time };
      });
      for (const run of runs(points)) {
        const path = run.map((point, index) => `${index ? "L" : "M"}${point.x.toFixed(1)} ${point.y.toFixed(1)}`).join("");
        if (stacked || line.filled) {
          const back = [...run].reverse().map((point) => `L${point.x.toFixed(1)} ${point.base.toFixed(1)}`).join("");
          parts.push(draw("path", { d: `${path}${back}Z`, class: `area c-${line.color}` }));
        }
        for (const edge of stacked ? runs(run.map(thick)) : [run]) parts.push(curve(edge, line));
      }
    });
    const index = this.index();
    const shown = moments[index];
    if (shown && this.chosen !== null) {
      parts.push(draw("line", { x1: x(shown.time), x2: x(shown.time), y1: 4, y2: low, class: "cursor" }));
    }
    this.svg.replaceChildren(...parts);
    this.tell(shown, shown ? columns[index] : [], end);
  }

  tell(shown, values, end) {
    const texts = this.spec.lines.map((line, number) => {
      const value = values[number];
      return value === null || value === undefined ? "–" : this.spec.format(value);
    });
    this.values.forEach((element, number) => {
      if (element.textContent !== texts[number]) element.textContent = texts[number];
    });
    const when = shown && this.chosen !== null ? clock(shown.time) : "now";
    this.readout.textContent = when;
    const past = shown ? Math.round(shown.time - end) : 0;
    this.canvas.setAttribute("aria-valuenow", String(Math.max(past, -WINDOW_SECONDS)));
    this.canvas.setAttribute("aria-valuetext", `${when}: ${this.spec.lines.map((line, number) => `${line.name} ${texts[number]}`).join(", ")}`);
  }
}

function curve(run, line) {
  const path = run.map((point, index) => `${index ? "L" : "M"}${point.x.toFixed(1)} ${point.y.toFixed(1)}`).join("");
  const look = `curve c-${line.color}${line.dashed ? " dashed" : ""}`;
  return draw("path", { d: run.length === 1 ? `${path}h0.1` : path, class: look });
}

// The edge of a layer is drawn only where it has any thickness, or it would hide the one below.
function thick(point, index, run) {
  return run.slice(Math.max(index - 1, 0), index + 2).some((one) => one.y !== one.base) ? point : null;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  const share = rough / power;
  return power * (share <= 1 ? 1 : share <= 2 ? 2 : share <= 5 ? 5 : 10);
}

// Points that belong together: a gap is a gap, be it of the script or of the server.
function runs(points) {
  const found = [];
  let run = [];
  for (const point of points) {
    if (point !== null && (!run.length || point.time - run[run.length - 1].time < 5)) {
      run.push(point);
      continue;
    }
    if (run.length) found.push(run);
    run = point === null ? [] : [point];
  }
  if (run.length) found.push(run);
  return found;
}

const plots = PLOTS.map((spec, number) => new Plot(spec, number));

// FastCGI servers

const upstreams = new Map();

function upstreamCard(address) {
  const item = make("li");
  const head = make("div", "upstream-head");
  const badge = make("span", "badge");
  head.append(make("h3", "", address), badge);
  const meter = make("div", "meter");
  meter.setAttribute("role", "meter");
  meter.setAttribute("aria-label", `Connections to ${address}`);
  meter.setAttribute("aria-valuemin", "0");
  const parts = ["busy", "opening", "idle"].map((name) => make("span", name));
  meter.append(...parts);
  const use = make("p", "facts");
  const work = make("p", "facts");
  item.append(head, meter, use, work);
  return { item, badge, meter, parts, use, work };
}

function showUpstreams(view) {
  const list = at("upstreams");
  const wanted = new Set(view.upstreams.map((one) => one.address));
  for (const [address, card] of upstreams) {
    if (!wanted.has(address)) {
      card.item.remove();
      upstreams.delete(address);
    }
  }
  for (const one of view.upstreams) {
    if (!upstreams.has(one.address)) {
      upstreams.set(one.address, upstreamCard(one.address));
      list.append(upstreams.get(one.address).item);
    }
    const card = upstreams.get(one.address);
    const inUse = one.busy + one.opening;
    const most = Math.max(one.limit, inUse + one.idle, 1);
    card.badge.textContent = one.ejected ? "Left alone" : inUse >= one.limit && one.limit ? "Busy" : "Working";
    card.badge.className = `badge ${one.ejected ? "failed" : inUse >= one.limit && one.limit ? "refused" : "accepted"}`;
    card.parts.forEach((part, number) => {
      part.style.width = `${(100 * [one.busy, one.opening, one.idle][number]) / most}%`;
    });
    card.meter.setAttribute("aria-valuemax", String(most));
    card.meter.setAttribute("aria-valuenow", String(inUse));
    card.meter.setAttribute("aria-valuetext", `${inUse} of ${most} in use`);
    card.use.textContent = `${count(one.busy)} busy, ${count(one.idle)} idle, of ${count(one.limit)} connections`;
    card.work.textContent = `${count(one.requests)} requests, ${count(one.failures)} failed tries`;
  }
  const { save = 0, validate = 0, policy = 0 } = view.waiting;
  const total = save + validate + policy;
  say(
    "queue",
    !view.upstreams.length
      ? "No scripts are asked."
      : total
        ? `${count(total)} requests wait for a connection: ${count(save)} mails, ${count(validate)} recipients, ${count(policy)} others.`
        : "No request waits for a connection."
  );
  const hits = Object.entries(view.limits).sort();
  at("limits").hidden = !hits.length;
  const texts = hits.map(([name, times]) => `${name}: ${count(times)}`);
  const chips = at("limit-list");
  if ([...chips.children].map((chip) => chip.textContent).join() !== texts.join()) {
    chips.replaceChildren(...texts.map((text) => make("li", "", text)));
  }
}

// Mails

function row(list, name, value) {
  if (value === "" || value === undefined) return;
  list.append(make("dt", "", name), make("dd", "", value));
}

// What is worth knowing without opening it.
function about(mail) {
  if (mail.verdict === "failed") return mail.reason;
  return mail.verdict === "accepted" ? `STDERR: ${mail.stderr}` : mail.reply;
}

function mailItem({ mail }) {
  const item = make("li");
  item.dataset.verdict = mail.verdict;
  item.dataset.text = [mail.queue_id, mail.peer, mail.helo, mail.mail_from, mail.rcpts, mail.subject, mail.reply, mail.reason, mail.stderr].join("\n").toLowerCase();
  const details = make("details");
  const summary = make("summary");
  const time = make("time", "", clock(mail.time));
  time.dateTime = new Date(mail.time * 1000).toISOString();
  summary.append(
    time,
    make("span", `badge ${mail.verdict}`, VERDICTS[mail.verdict] || mail.verdict),
    make("span", "route", `${mail.mail_from || "<>"} → ${mail.rcpts || "–"}`),
    make("span", "took", `${octets(mail.octets)}, ${duration(mail.milliseconds / 1000)}`)
  );
  if (mail.verdict !== "accepted" || mail.stderr) {
    summary.append(make("span", "said", about(mail)));
  }
  const list = make("dl");
  row(list, "Subject", mail.subject);
  row(list, "From", mail.mail_from || "<>");
  row(list, "To", mail.rcpts);
  row(list, "Reply", mail.reply);
  row(list, "Reason", mail.reason === mail.reply ? "" : mail.reason);
  row(list, "Client", mail.helo ? `${mail.peer}, ${mail.helo}` : mail.peer);
  row(list, "Script", mail.upstream ? `${duration(mail.script_milliseconds / 1000)} at ${mail.upstream}` : "not asked");
  row(list, "Queue id", mail.queue_id);
  if (mail.stderr) {
    const said = make("dd");
    said.append(make("pre", "", mail.stderr));
    list.append(make("dt", "", "STDERR"), said);
  }
  details.append(summary, list);
  item.append(details);
  return item;
}

function showMails(mails) {
  const list = at("mail-list");
  for (const one of mails) {
    list.prepend(mailItem(one));
    known.mail = one.number;
  }
  const isAccepted = (item) => item.dataset.verdict === "accepted";
  const items = [...list.children];
  for (const some of [items.filter(isAccepted), items.filter((item) => !isAccepted(item))]) {
    for (const item of some.slice(KEPT_MAILS)) item.remove();
  }
  if (mails.length) filterMails();
}

function filterMails() {
  const verdict = document.querySelector("#filters input:checked").value;
  const words = at("find").value.toLowerCase().trim();
  const items = [...at("mail-list").children];
  let shown = 0;
  for (const item of items) {
    const fits = (!verdict || item.dataset.verdict === verdict) && item.dataset.text.includes(words);
    item.hidden = !fits;
    shown += fits;
  }
  at("no-mails").hidden = shown > 0;
  say("no-mails", items.length ? "None of the latest mails is like that." : "No mail yet. As soon as one comes, it is here.");
}

// From the server to the page

function forget(run) {
  Object.assign(known, { run, moment: 0, mail: 0, moments: [] });
  at("mail-list").replaceChildren();
}

function show(view) {
  for (const one of view.moments) known.moments.push(one);
  if (view.moments.length) known.moment = view.moments[view.moments.length - 1].number;
  const last = known.moments[known.moments.length - 1];
  if (last) known.moments = known.moments.filter((one) => last.time - one.time <= WINDOW_SECONDS);
  say("hostname", view.hostname);
  document.title = `${view.hostname} – mail server status`;
  const deaths = view.deaths ? `, ${count(view.deaths)} died and replaced` : "";
  say("about", `trio_fcgimail ${view.version}, ${count(view.workers)} ${view.workers === 1 ? "process" : "processes"}${deaths}`);
  setState(view.state);
  say("rate", last ? rate(last.accepted + last.discarded + last.refused + last.failed) : "–");
  say("accepted", count((view.totals.accepted || 0) + (view.totals.discarded || 0)));
  say("refused", count(view.totals.refused || 0));
  say("failed", count(view.totals.failed || 0));
  say("open", count(view.open));
  const timed = [...known.moments].reverse().find((one) => one.save);
  say("save", timed ? duration(timed.save[1]) : "–");
  for (const plot of plots) plot.show();
  showUpstreams(view);
  showMails(view.mails);
  filterMails();
}

function setState(state) {
  at("state").dataset.state = state;
  say("state", STATES[state] || state);
}

async function ask() {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), PATIENCE_MILLISECONDS);
  try {
    const url = `/state.json?moment=${known.moment}&mail=${known.mail}`;
    const response = await fetch(url, { cache: "no-store", signal: stop.signal });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return await response.json();
  } finally {
    clearTimeout(timer);
  }
}

async function turn() {
  if (!known.paused && !document.hidden) {
    try {
      let view = await ask();
      if (view.run !== known.run) {
        const isOther = known.run !== "";
        forget(view.run);
        if (isOther) view = await ask();
      }
      if (!known.paused) show(view);
    } catch {
      setState("lost");
    }
  }
  setTimeout(turn, ASK_MILLISECONDS);
}

at("plots").append(...plots.map((plot) => plot.box));
at("pause").addEventListener("click", () => {
  known.paused = !known.paused;
  at("pause").setAttribute("aria-pressed", String(known.paused));
  at("pause").textContent = known.paused ? "Go on" : "Pause";
  if (known.paused) setState("paused");
});
at("filters").addEventListener("input", filterMails);
at("filters").addEventListener("submit", (event) => event.preventDefault());
turn();
