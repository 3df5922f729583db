"use strict";
// Whatever the node says is shown as text: peers choose parts of it.
(() => {
  const ROWS_MAX = 200, WINDOW_MS = 600000, TIMEOUT_MS = 20000, ADDRESSES_SHOWN = 12;
  const $ = (id) => document.getElementById(id);

  // ---- making elements: children are nodes, or values that become text ----

  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (name === "onclick") node.addEventListener("click", value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== null && value !== false) node.setAttribute(name, String(value));
    }
    node.append(...children.filter((child) => child !== null).map((child) => child instanceof Node ? child : String(child)));
    return node;
  };
  const make = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
  const draw = (name, attributes, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  // Only what changes is touched: a screen reader, a selection and the layout are left alone.
  const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  // ---- values as words ----

  const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const isThere = (value) => value !== undefined && value !== null;
  const plain = (value) => isNumber(value) ? NUMBER.format(value) : isThere(value) ? String(value) : "–";
  const short = (value) => isNumber(value) && Math.abs(value) >= 100000 ? COMPACT.format(value) : plain(value);
  const bytes = (value) => {
    if (!isNumber(value)) return plain(value);
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let at = 0;
    for (; value >= 1024 && at < units.length - 1; at += 1) value /= 1024;
    return `${value >= 100 || at === 0 ? value.toFixed(0) : value.toFixed(1)} ${units[at]}`;
  };
  const time = (us) => {
    if (!isNumber(us)) return plain(us);
    const short = (value) => value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1);
    if (us < 1000) return `${us.toFixed(0)} µs`;
    return us < 1e6 ? `${short(us / 1000)} ms` : `${short(us / 1e6)} s`;
  };
  const span = (s) => {
    if (!isNumber(s)) return plain(s);
    const [d, h, m] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
    if (d > 0) return `${d} d ${h} h`;
    if (h > 0) return `${h} h ${m} min`;
    return m > 0 ? `${m} min ${Math.floor(s % 60)} s` : `${Math.floor(s)} s`;
  };
  const rate = (value) => isThere(value) ? `${short(value)}/s` : "–";
  const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
  const count = (number, one, many) => `${plain(number)} ${number === 1 ? one : many}`;
  const list = (value) => Array.isArray(value) ? value : [];

  // ---- asking ----

  class Refused extends Error {}
  const ask = async (path) => {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), TIMEOUT_MS);
    try {
      const answer = await fetch(path, { cache: "no-store", signal: abort.signal });
      if (!answer.ok) throw new Refused((await answer.text()).trim() || `status ${answer.status}`);
      return await answer.json();
    } finally {
      clearTimeout(timer);
    }
  };

  // Asks again and again: not while nobody looks, less often while that fails or takes long.
  const poll = (interval_ms, isWanted, work) => {
    let timer = null, isRunning = false, failures = 0;
    const run = async () => {
      clearTimeout(timer);
      if (isRunning || document.hidden || !isWanted()) return;
      isRunning = true;
      const start = performance.now();
      try { await work(); failures = 0; } catch (error) { failures += 1; }
      isRunning = false;
      const took = performance.now() - start;
      timer = setTimeout(run, Math.max(Math.min(interval_ms * 2 ** failures, 10000), took * 5));
    };
    document.addEventListener("visibilitychange", run);
    return run;
  };

  // ---- whether the node answers ----

  let heard_ms = Date.now();
  const trouble = (error) => {
    document.body.classList.toggle("stale", error !== null);
    if (error === null) {
      heard_ms = Date.now();
      document.title = "metalbond-uring";
      return $("trouble").replaceChildren();
    }
    const words = error instanceof Refused
      ? `The daemon has refused to answer since ${clock(heard_ms)}: ${error.message}`
      : `The daemon cannot be reached since ${clock(heard_ms)}. What is shown is from then; trying again.`;
    document.title = "(unreachable) metalbond-uring";
    // The alert is told once.
    const said = $("trouble").firstChild ?? $("trouble").appendChild(make("p"));
    say(said, words);
  };

  // ---- totals ----

  const tiles = {};
  for (const [name, title] of [["peers", "Peers"], ["routes", "Routes"], ["vnis", "VNIs"], ["received", "Updates in"],
    ["sent", "Updates out"], ["pending", "Still to be sent"]]) {
    const [value, note] = [make("div", { class: "value" }, "–"), make("div", { class: "note" }, "\u00a0")];
    const term = make("dt", null, title);
    $("tiles").append(make("div", null, term, make("dd", null, value, note)));
    tiles[name] = { term, show: (text, words) => { say(value, text); say(note, words || "\u00a0"); } };
  }

  let isClient = false, told_ms = -Infinity;
  const summarize = (summary) => {
    const told = summary.peers ?? {}, since = summary.since_start ?? {}, newest = samples.at(-1) ?? {};
    if (isClient !== (Boolean(summary.servers))) {
      isClient = !isClient;
      peers.show();
    }
    say(tiles.peers.term, isClient ? "Servers and peers" : "Peers");
    say($("peers-tab"), isClient ? "Servers and peers" : "Peers");
    const servers = summary.servers;
    const notes = [isClient && isThere(servers.known) ? `${plain(servers.established)} of ${count(servers.known, "server", "servers")}` : "",
      told.connecting ? `${plain(told.connecting)} connecting` : "", told.slow ? `${plain(told.slow)} slow` : "",
      told.flapping ? `${plain(told.flapping)} flapping` : ""];
    tiles.peers.show(plain(told.established), notes.filter(Boolean).join(", "));
    tiles.routes.show(short(summary.routes), "");
    tiles.vnis.show(short(summary.vnis), "");
    tiles.received.show(rate(newest.updates_received_per_s), `${short(since.updates_received)} in total`);
    tiles.sent.show(rate(newest.updates_sent_per_s), isThere(since.updates_sent) ? `${short(since.updates_sent)} in total` : "");
    tiles.pending.show(bytes(summary.pending_bytes), told.slow ? "and what slow peers missed" : "");
    const parts = [isClient ? "client" : "route reflector", plain(summary.version),
      isNumber(summary.uptime_s) ? `up ${span(summary.uptime_s)}` : "", count(summary.shards, "shard", "shards")];
    say($("node"), parts.filter(Boolean).join(" · "));
    if ($("figures-details").open) showFigures(summary);
    // Not more often than one can listen to.
    const said = `${plain(told.established)} peers established, ${plain(told.slow)} slow, ${plain(summary.routes)} routes, ` +
      `${plain(summary.vnis)} VNIs`;
    if (performance.now() - told_ms > 15000 && $("totals-said").textContent !== said) {
      told_ms = performance.now();
      say($("totals-said"), said);
    }
  };

  const showFigures = (summary) => {
    const groups = [["Traffic", summary.since_start], ["Connections that ended", summary.disconnects],
      ["Memory held", summary.memory_bytes], ["Feeding peers that do not reassemble", summary.pacing]];
    const shown = groups.filter(([, group]) => group && typeof group === "object").map(([title, group]) => {
      const rows = Object.entries(group).filter(([, value]) => typeof value !== "object").map(([name, value]) =>
        make("div", null, make("dt", null, name.replaceAll("_", " ")), make("dd", null, group === summary.memory_bytes ? bytes(value) : plain(value))));
      if (rows.length === 0) rows.push(make("div", null, make("dt", null, "none")));
      return make("section", null, make("h3", null, title), make("dl", null, ...rows));
    });
    $("figures").replaceChildren(...shown);
  };
  let last_summary = null;
  $("figures-details").addEventListener("toggle", () => { if (last_summary) showFigures(last_summary); });

  // ---- plots ----

  let samples = [];
  // What can be drawn.
  const isKnown = (value) => isNumber(value) && value >= 0 && value < 1e15;
  // In and out, half and 99 % lie orders of magnitude apart; and there has to be a place for 0.
  const height_of = (value) => Math.log10(1 + value);
  const plot = (id, title, lines, words) => {
    const figure = $(id);
    const svg = draw("svg", { class: "plot", role: "img", "aria-label": title });
    const values = lines.map(() => make("span", null, "–"));
    const key = lines.map((line, at) => make("span", null,
      draw("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, draw("path", { class: `line${at}`, d: "M0 4h22" })), `${line.name} `, values[at]));
    figure.querySelector("figcaption").append(make("div", { class: "legend" }, ...key));
    const table = make("tbody");
    const heads = lines.map((line) => make("th", { scope: "col", class: "number" }, line.head));
    const details = make("details", null, make("summary", null, "As a table"),
      make("div", { class: "scroll" }, make("table", null, make("caption", { class: "unseen" }, `${title}, by minute`),
        make("thead", null, make("tr", null, make("th", { scope: "col" }, "Until"), ...heads)), table)));
    figure.append(svg, details);

    const minutes = () => {
      const rows = [];
      for (let at = samples.length; at > 0; at -= 30) {
        const part = samples.slice(Math.max(0, at - 30), at);
        const cells = lines.map((line) => {
          const known = part.map(line.value).filter(isKnown);
          return make("td", { class: "number" }, known.length ? words(line.fold(known)) : "–");
        });
        rows.push(make("tr", null, make("th", { scope: "row" }, clock(part.at(-1).unix_time_ms)), ...cells));
      }
      table.replaceChildren(...rows);
    };
    details.addEventListener("toggle", minutes);

    const show = () => {
      const width = svg.clientWidth || 600, height = 190, left = 58, right = width - 6, top = 10, bottom = height - 24;
      const until = isKnown(samples.at(-1)?.unix_time_ms) ? samples.at(-1).unix_time_ms : Date.now();
      const all = lines.flatMap((line) => samples.map(line.value)).filter(isKnown);
      const decades = Math.max(1, Math.ceil(Math.log10(Math.max(1, ...all))));
      // A node that was just started has little to show.
      const age = until - (samples[0]?.unix_time_ms ?? until);
      const minutes_shown = [2, 5, 10].find((minutes) => age <= minutes * 60000) ?? 10;
      const x = (ms) => right - (until - ms) / (minutes_shown * 60000) * (right - left);
      const y = (value) => bottom - height_of(value) / height_of(10 ** decades) * (bottom - top);
      const parts = [];
      const step = decades > 6 ? 2 : 1;
      const marks = [0];
      for (let decade = decades; decade > 0 && all.length; decade -= step) marks.push(10 ** decade);
      for (const mark of marks) {
        const at = Math.round(y(mark)) + .5;
        parts.push(draw("path", { class: "grid", d: `M${left} ${at}H${right}` }));
        parts.push(draw("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, mark === 0 ? "0" : words(mark)));
      }
      const parts_shown = minutes_shown === 2 || width < 440 ? 2 : 5;
      for (let at = 0; at <= parts_shown; at += 1) {
        const minute = minutes_shown * (parts_shown - at) / parts_shown;
        const anchor = at === 0 ? "start" : at === parts_shown ? "end" : "middle";
        parts.push(draw("text", { x: x(until - minute * 60000), y: height - 6, "text-anchor": anchor }, minute === 0 ? "now" : `−${minute} min`));
      }
      lines.forEach((line, at) => {
        let path = "", isDrawing = false;
        for (const sample of samples) {
          const value = line.value(sample);
          if (isKnown(value) && isKnown(sample.unix_time_ms)) {
            path += `${isDrawing ? "L" : "M"}${x(sample.unix_time_ms).toFixed(1)} ${y(value).toFixed(1)}`;
            // A point alone is seen too.
            if (!isDrawing) path += "h.1";
          }
          isDrawing = isKnown(value);
        }
        parts.push(draw("path", { class: `line${at}`, d: path || "M0 0" }));
        say(values[at], samples.length ? words(line.value(samples.at(-1))) : "–");
      });
      if (all.length === 0) parts.push(draw("text", { x: (left + right) / 2, y: (top + bottom) / 2 + 4, "text-anchor": "middle" }, samples.length ? "nothing to tell in these minutes" : "nothing measured yet"));
      svg.replaceChildren(...parts);
      const now = lines.map((line, at) => `${line.head}: now ${values[at].textContent}, at most ${all.length ? words(Math.max(0, ...samples.map(line.value).filter(isKnown))) : "–"}`);
      svg.setAttribute("aria-label", `${title} over the last ten minutes. ${now.join("; ")}.`);
      if (details.open) minutes();
    };
    new ResizeObserver(show).observe(svg);
    return show;
  };
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const largest = (values) => Math.max(...values);
  const plots = [
    plot("rates", "Updates a second", [
      { name: "in", head: "In", value: (sample) => sample.updates_received_per_s, fold: mean },
      { name: "out", head: "Out", value: (sample) => sample.updates_sent_per_s, fold: mean },
    ], short),
    plot("times", "Propagation time", [
      { name: "p50", head: "Half within", value: (sample) => sample.propagation_us?.p50, fold: mean },
      { name: "p99", head: "99 % within", value: (sample) => sample.propagation_us?.p99, fold: largest },
    ], time),
  ];

  const learn = (history) => {
    const last = samples.at(-1)?.number ?? 0;
    // It was started anew, unseen.
    if (history.last < last) { samples = []; return; }
    samples = samples.concat(list(history.samples).filter((sample) => sample && !(sample.number <= last)));
    const from = (samples.at(-1)?.unix_time_ms ?? 0) - WINDOW_MS;
    samples = samples.filter((sample) => !(sample.unix_time_ms < from)).slice(-400);
    plots.forEach((show) => show());
  };

  const totals = poll(2000, () => true, async () => {
    try {
      // One that could not be reached may have been started anew: its past is asked for as a whole.
      const isLost = document.body.classList.contains("stale");
      const history = await ask(`/history.json?after=${isLost ? 0 : samples.at(-1)?.number ?? 0}`);
      if (isLost) samples = [];
      learn(history);
      last_summary = await ask("/summary.json");
      summarize(last_summary);
      showFabric(last_summary.fabric);
      trouble(null);
    } catch (error) {
      trouble(error);
      throw error;
    }
  });

  // ---- tables ----

  const compare = (a, b) => {
    if (!isThere(a) || !isThere(b)) return (isThere(a) ? 0 : 1) - (isThere(b) ? 0 : 1);
    return isNumber(a) && isNumber(b) ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  };

  // `columns`: name, label, value (what is sorted by), and how it is shown: `text`, or `node` from that text.
  const table = (id, { things, caption, columns, rowKey, matches, hint, none }) => {
    const box = $(id);
    let rows = [], by = 0, isDown = false, error = null, isLoaded = false;
    const shown = new Map();
    const filter = make("input", { id: `${id}-filter`, type: "search", autocomplete: "off", autocapitalize: "off", spellcheck: "false", placeholder: hint });
    const sort = make("select", { id: `${id}-sort` }, ...columns.flatMap((column, at) =>
      [make("option", { value: `${at} up` }, `${column.label}, ascending`), make("option", { value: `${at} down` }, `${column.label}, descending`)]));
    const counted = make("p", { id: `${id}-count` }, "\u00a0");
    const heads = columns.map((column, at) => make("th", { scope: "col", role: "columnheader", class: column.kind, "aria-sort": at === 0 ? "ascending" : "none" },
      make("button", { type: "button", onclick: () => order(at, by === at ? !isDown : column.kind === "number") }, column.label)));
    const body = make("tbody", { role: "rowgroup" });
    const empty = make("p", { class: "empty" }, "Asking …");
    const grid = make("table", { class: "rows", role: "table", hidden: true }, make("caption", { class: "unseen" }, caption),
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)), body);
    box.append(make("div", { class: "tools" }, make("label", { for: filter.id }, "Filter", filter),
      make("label", { for: sort.id, class: "sort" }, "Sort by", sort), counted), make("div", { class: "scroll" }, grid), empty);

    const order = (at, down) => {
      [by, isDown] = [at, down];
      heads.forEach((head, it) => head.setAttribute("aria-sort", it === by ? (isDown ? "descending" : "ascending") : "none"));
      sort.value = `${by} ${isDown ? "down" : "up"}`;
      show();
    };
    sort.addEventListener("change", () => {
      const [at, direction] = sort.value.split(" ");
      order(Number(at), direction === "down");
    });
    let timer = null;
    filter.addEventListener("input", () => {
      show();
      clearTimeout(timer);
      timer = setTimeout(() => say($("filter-said"), counted.textContent), 700);
    });

    const line = (key) => {
      const cells = columns.map((column, at) => at === 0
        ? make("th", { scope: "row", role: "rowheader", class: column.kind })
        : make("td", { role: "cell", class: column.kind, "data-label": column.label }));
      const made = { row: make("tr", { role: "row" }, ...cells), cells, texts: [] };
      shown.set(key, made);
      return made;
    };
    const show = () => {
      const word = filter.value.trim().toLowerCase();
      const meant = rows.filter((row) => word === "" || matches(row, word));
      const { value } = columns[by];
      // Those without a value are last either way.
      meant.sort((a, b) => isThere(value(a)) && isThere(value(b)) && isDown ? compare(value(b), value(a)) : compare(value(a), value(b)));
      const first = meant.slice(0, ROWS_MAX), kept = new Set();
      let next = body.firstChild;
      for (const row of first) {
        const key = rowKey(row);
        if (kept.has(key)) continue;
        kept.add(key);
        const { row: element, cells, texts } = shown.get(key) ?? line(key);
        columns.forEach((column, at) => {
          const text = column.text(row);
          if (texts[at] === text) return;
          texts[at] = text;
          column.node ? cells[at].replaceChildren(column.node(text, row)) : say(cells[at], text);
        });
        if (element === next) next = next.nextSibling;
        else body.insertBefore(element, next);
      }
      for (const [key, { row }] of shown) {
        if (!kept.has(key)) { row.remove(); shown.delete(key); }
      }
      const more = meant.length > kept.size ? "; sort or filter to see others" : "";
      say(counted, isLoaded ? `${plain(kept.size)} of ${plain(rows.length)} shown${more}` : "\u00a0");
      grid.hidden = kept.size === 0;
      empty.hidden = kept.size > 0 && error === null;
      say(empty, error !== null ? `Cannot ask for ${things}: ${error}` : !isLoaded ? "Asking …" : rows.length ? `No ${things} match.` : none());
    };
    return {
      set: (told) => { [rows, error, isLoaded] = [told.filter((row) => row && typeof row === "object"), null, true]; show(); },
      fail: (problem) => { error = problem; show(); },
      show,
      find: (word) => { filter.value = word; show(); },
    };
  };

  const tag = (text, kind) => make("span", { class: `tag ${kind}` }, text);
  const number = (name, label, text = plain) => ({ label, kind: "number", value: (row) => row[name], text: (row) => text(row[name]) });
  const peers = table("peers", {
    things: "peers", caption: "Peers, their state and what they have still to be sent", hint: "address, state, slow, or vni:100",
    none: () => isClient ? "No server is connected, and no peer." : "No peers are connected.",
    rowKey: (row) => String(row.id),
    matches: (row, word) => word.startsWith("vni:")
      ? list(row.vnis).some((vni) => String(vni) === word.slice(4))
      : [row.address, row.state, row.direction, row.class, row.slow === true ? "slow" : ""].some((text) => String(text).toLowerCase().includes(word)),
    columns: [
      { label: "Address", kind: "", value: (row) => row.address, text: (row) => plain(row.address) },
      { label: "State", kind: "", value: (row) => row.state, text: (row) => plain(row.state).replaceAll("_", " "),
        node: (text, row) => tag(text, row.state === "established" ? "good" : "") },
      { label: "Role", kind: "", value: (row) => row.class, text: (row) => row.direction === "outgoing" ? "our server" : plain(row.class) },
      { label: "Since", kind: "number", value: (row) => row.established_for_s, text: (row) => span(row.established_for_s) },
      number("keepalive_interval_s", "Keepalive", (s) => isThere(s) ? `${plain(s)} s` : "–"),
      { label: "VNIs", kind: "number", value: (row) => list(row.vnis).length, text: (row) => plain(list(row.vnis).length) },
      number("routes", "Routes"),
      number("pending_bytes", "To be sent", bytes),
      { label: "Slow", kind: "", value: (row) => row.slow_vnis, text: (row) => row.slow !== true ? "no" : `${count(row.slow_vnis, "VNI", "VNIs")}${isThere(row.slow_for_s) ? `, ${span(row.slow_for_s)}` : ""}`,
        node: (text, row) => row.slow === true ? tag(text, "warn") : make("span", null, text) },
      { label: "Reassembles", kind: "", value: (row) => String(row.reassembles), text: (row) => row.reassembles === true ? "yes" : row.reassembles === false ? "no" : "–" },
      number("updates_received", "Updates in", short),
      number("updates_sent", "Updates out", short),
      number("reconnections_last_hour", "Reconnects/h"),
    ],
  });
  const vnis = table("vnis", {
    things: "VNIs", caption: "VNIs, their routes and subscribers", hint: "VNI or digest",
    none: () => "No VNI has a route or a subscriber.",
    rowKey: (row) => String(row.vni),
    matches: (row, word) => String(row.vni).includes(word) || String(row.digest).includes(word),
    columns: [
      { label: "VNI", kind: "", value: (row) => row.vni, text: (row) => isThere(row.vni) ? String(row.vni) : "–",
        node: (text, row) => make("button", { type: "button", class: "link", "aria-label": `VNI ${text}: show its peers`,
          onclick: () => { peers.find(`vni:${text}`); choose(0); $("peers-filter").focus(); } }, text) },
      number("routes", "Routes"),
      number("sources", "Announcers"),
      number("subscribers", "Subscribers"),
      number("slow_subscribers", "Slow"),
      { label: "Digest", kind: "digest wide", value: (row) => row.digest, text: (row) => plain(row.digest) },
    ],
  });

  const STATES = { synced: "good", syncing: "", leaving: "", gone: "", unknown: "" };
  const reflectors = table("fabric-reflectors", {
    things: "reflectors", caption: "The other reflectors of the fabric", hint: "name or state",
    none: () => "No other reflector has joined the fabric.",
    rowKey: (row) => String(row.name),
    matches: (row, word) => [row.name, row.state].some((text) => String(text).toLowerCase().includes(word)),
    columns: [
      { label: "Reflector", kind: "", value: (row) => row.name, text: (row) => plain(row.name) },
      { label: "State", kind: "", value: (row) => row.state, text: (row) => plain(row.state), node: (text) => tag(text, STATES[text] ?? "warn") },
      { label: "Routes", kind: "number", value: (row) => row.records, text: (row) => plain(row.records) },
      { label: "Not said again", kind: "number", value: (row) => row.records_former, text: (row) => plain(row.records_former) },
      { label: "Stays for", kind: "number", value: (row) => row.stale_for_s, text: (row) => isThere(row.stale_for_s) ? span(row.stale_for_s) : "–" },
    ],
  });
  const engineSaid = (told) => {
    const { server, since_start: since = {}, dropped_records: dropped = {} } = told;
    const reasons = Object.entries(dropped).map(([reason, number]) => `${reason} ${plain(number)}`);
    const parts = [isThere(server) ? `NATS ${plain(server.name)}, version ${plain(server.version)}` : "no NATS server",
      isThere(told.canary_s) ? `own sign of life back ${span(told.canary_s)} ago` : "",
      isThere(told.held_for_s) ? `routes of others stay for ${span(told.held_for_s)}` : "",
      isThere(told.twin) ? "another reflector has this name" : "",
      since.refused ? `${count(since.refused, "route", "routes")} of others refused by this node's tables` : "",
      reasons.length ? `records dropped: ${reasons.join(", ")}` : "",
      since.publish_errors ? `${count(since.publish_errors, "publication", "publications")} failed, the last one: ${plain(told.last_error)}` : ""];
    return parts.filter(Boolean).join(" · ");
  };
  const watchFabric = poll(5000, () => !$("fabric").hidden, async () => {
    try {
      const told = await ask("/fabric.json");
      reflectors.set(list(told.reflectors));
      say($("fabric-engine"), engineSaid(told));
    } catch (error) {
      if (error instanceof Refused) reflectors.fail(error.message);
      throw error;
    }
  });
  const showFabric = (fabric) => {
    const isShown = isThere(fabric);
    if (isShown) {
      const parts = [`${plain(fabric.fabric)}: ${plain(fabric.state)} as ${plain(fabric.name)}`,
        `${count(fabric.own_records, "route", "routes")} told`, `${plain(fabric.remote_records)} learned of ${count(fabric.reflectors, "other reflector", "other reflectors")}`,
        fabric.lag_records ? `${plain(fabric.lag_records)} to be read` : "", fabric.dirty_keys ? `${plain(fabric.dirty_keys)} to be published` : ""];
      say($("fabric-said"), parts.filter(Boolean).join(" · ") + (fabric.trouble ? `. ${fabric.trouble}` : ""));
    }
    if ($("fabric").hidden !== isShown) return;
    $("fabric").hidden = !isShown;
    if (isShown) watchFabric();
  };

  const tabs = ["peers", "vnis"];
  let chosen = 0;
  const watch = [["/peers.json", "peers", peers], ["/vnis.json", "vnis", vnis]].map(([path, name, shown], at) =>
    poll(5000, () => chosen === at, async () => {
      try { shown.set(list((await ask(path))[name])); } catch (error) {
        if (error instanceof Refused) shown.fail(error.message);
        throw error;
      }
    }));
  const choose = (at) => {
    chosen = at;
    tabs.forEach((name, it) => {
      $(name).hidden = it !== at;
      $(`${name}-tab`).setAttribute("aria-selected", String(it === at));
      $(`${name}-tab`).tabIndex = it === at ? 0 : -1;
    });
    watch[at]();
  };
  tabs.forEach((name, at) => {
    $(`${name}-tab`).addEventListener("click", () => choose(at));
    $(`${name}-tab`).addEventListener("keydown", (event) => {
      const to = { ArrowLeft: 0, Home: 0, ArrowRight: 1, End: 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(to);
      $(`${tabs[to]}-tab`).focus();
    });
  });

  // ---- search ----

  const named = (peer) => `${plain(peer.address)}${isThere(peer.pending_bytes) ? ` (${bytes(peer.pending_bytes)})` : ""}`;
  const addresses = (group) => {
    const all = list(group?.peers).map((peer) => make("li", null, named(peer ?? {})));
    if (all.length === 0) return make("span", null, group?.count ? "" : "nobody");
    const left = group.count - all.length;
    if (left > 0) all.push(make("li", null, `and ${plain(left)} that are not listed`));
    if (all.length <= ADDRESSES_SHOWN + 1) return make("ul", { class: "addresses" }, ...all);
    return make("div", null, make("ul", { class: "addresses" }, ...all.slice(0, ADDRESSES_SHOWN)),
      make("details", null, make("summary", null, `${plain(Math.max(group.count, all.length) - ADDRESSES_SHOWN)} more`), make("ul", { class: "addresses" }, ...all.slice(ADDRESSES_SHOWN))));
  };
  const TYPES = { 0: "standard", 1: "NAT", 2: "load balancer target" };
  const routeShown = (route) => {
    const hop = route.next_hop ?? {};
    const about = [`VNI ${isThere(route.vni) ? route.vni : "–"}`, TYPES[hop.type] ?? `type ${plain(hop.type)}`];
    if (hop.vni) about.push(`target VNI ${hop.vni}`);
    if (hop.nat_port_from || hop.nat_port_to) about.push(`ports ${hop.nat_port_from} to ${hop.nat_port_to}`);
    const announced = route.announced_by ?? {}, lost = announced.count - list(announced.peers).length;
    const part = (title, group) => [make("dt", null, `${title} (${plain(group?.count)})`), make("dd", null, addresses(group))];
    const reasons = (grouped) => list(grouped?.reasons).map((group) => make("div", null,
      make("p", { class: "why" }, `${plain(group.count)}: ${plain(group.why)}`), addresses(group)));
    const for_now = reasons(route.perhaps_not_yet), not_seen = reasons(route.not_seen_by);
    const strangers = route.connecting?.count > 0 ? part("Not established yet", route.connecting) : [];
    return make("article", { class: "route" },
      make("h3", null, `${plain(route.destination)} via ${plain(hop.address)}`), make("p", { class: "why" }, about.join(" · ")),
      make("dl", null,
        make("dt", null, `Announced by (${plain(announced.count)})`),
        make("dd", null, addresses({ count: list(announced.peers).length, peers: announced.peers }),
          lost > 0 ? make("p", { class: "why" }, `and ${count(lost, "other", "others")}: not listed, or not connected any more`) : null),
        ...part("Seen by", route.seen_by),
        ...(for_now.length ? [make("dt", null, `Perhaps not yet (${plain(route.perhaps_not_yet.count)})`), make("dd", null, ...for_now)] : []),
        make("dt", null, `Not seen by (${plain(route.not_seen_by?.count)})`),
        make("dd", null, ...(not_seen.length ? not_seen : ["nobody who subscribes"])),
        ...part("Does not subscribe", route.not_subscribed), ...strangers));
  };
  let asked = 0;
  const search = async () => {
    const [prefix, vni] = [$("prefix").value.trim(), $("vni").value.trim()];
    const number = ++asked;
    if (prefix === "") { $("found").replaceChildren(); return say($("said"), "Give an address or a prefix, as 10.0.0.1 or 10.0.0.0/24."); }
    // Said anew, be it the same as before.
    say($("said"), "Asking …");
    let words, found = [];
    try {
      const filter = vni === "" ? "" : `&vni=${encodeURIComponent(vni)}`;
      const answer = await ask(`/visibility.json?prefix=${encodeURIComponent(prefix)}${filter}`);
      found = list(answer.routes).map(routeShown);
      const where = vni === "" ? "" : ` in VNI ${vni}`;
      words = found.length === 0 ? `No route for ${prefix}${where}.`
        : `${answer.cut ? "The first " : ""}${count(found.length, "route", "routes")} for ${prefix}${where}${answer.cut ? (vni === "" ? "; there are more: give the VNI" : "; there are more, which are not shown") : ""}.`;
    } catch (error) {
      words = error instanceof Refused ? error.message : "The daemon cannot be reached.";
    }
    if (number !== asked) return;
    $("found").replaceChildren(...found);
    say($("said"), words);
  };
  $("form").addEventListener("submit", (event) => { event.preventDefault(); search(); });

  plots.forEach((show) => show());
  totals();
  choose(0);
})();
