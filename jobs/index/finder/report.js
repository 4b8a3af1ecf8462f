// The report page: shows NAME.report.json of the image that the query names. It takes the report's path from index.json
// alone, so that a link cannot make it show a file from elsewhere.

const main = document.getElementById("report");

function h(tag, props, ...children) {
  const e = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (value !== undefined && value !== null && value !== false) e.setAttribute(key, value === true ? "" : value);
  }
  e.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return e;
}

const at = (path) => new URL(`../${path.split("/").map(encodeURIComponent).join("/")}`, document.baseURI).href;
const seconds = (s) => (s >= 0.95 ? `${s.toFixed(1)} s` : `${Math.round(s * 1000)} ms`);

async function load(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer.json();
}

function facts(i) {
  const v = i.versions || {};
  return [
    i.releaseId === i.release ? i.release : `${i.release} (${i.releaseId})`, i.vendor, i.arch, `${i.uploadType} ${i.version}`,
    v.kernel && `Linux ${v.kernel}`, v["cloud-init"] && `cloud-init ${v["cloud-init"]}`, i.packages && `${i.packages} packages`,
  ].filter(Boolean).join(" · ");
}

/** base is the path of everything that belongs to the image, without extension. */
const base = (i) => i.manifest.replace(/\.json$/, "");

const logLabels = { "check.xml": "check as JUnit", "boot.xml": "boot as JUnit", "build.log": "build log" };
const logLabel = (ext) => logLabels[ext] || ext.replace(/^console-(.*)\.log$/, "$1 console");

function verdict(i) {
  const r = i.report;
  const fine = r.failed === 0 && r.passed > 0;
  return h("p", { class: `verdict ${fine ? "passed" : "failed"}` },
    h("strong", {}, fine ? "✓ Passed" : "✗ Failed"), ` ${r.passed} passed, ${r.failed} failed, ${r.skipped} skipped`);
}

/** failures lists what failed, with links to the checks below. */
function failures(suites) {
  const failed = suites.flatMap((s) => (s.checks || []).filter((c) => c.result !== "passed" && c.result !== "skipped"));
  if (!failed.length) return null;
  return h("ul", { class: "failures" }, failed.map((c) => h("li", {}, h("a", { href: `#${anchor(c)}` }, `${c.id}: ${c.name}`))));
}

const anchor = (c) => `check-${c.id}`.replace(/[^A-Za-z0-9-]/g, "-");

const phases = [["firmware", "firmware"], ["kernel", "kernel"], ["initrd", "initrd"], ["userspace", "userspace"], ["cloudInit", "cloud-init"]];

function boots(list) {
  if (!list.length) return null;
  const longest = Math.max(...list.map((b) => b.times.total || 0), 0.1);
  return h("section", { "aria-labelledby": "boots" }, h("h2", { id: "boots" }, "Boots"), list.map((b) => boot(b, longest)));
}

function boot(b, longest) {
  const known = phases.filter(([key]) => b.times[key] > 0);
  const bar = h("div", { class: "bar", "aria-hidden": "true" }, known.map(([key]) => {
    const part = h("span", { class: `phase ${key}` });
    part.style.width = `${Math.min(100, (100 * b.times[key]) / longest)}%`;
    return part;
  }));
  return h("div", { class: "boot" },
    h("h3", {}, `${b.firmware.toUpperCase()} `, h("span", { class: "quiet" },
      [b.accelerator && `on ${b.accelerator.toUpperCase()}`, b.times.ssh > 0 && `SSH after ${seconds(b.times.ssh)}`, b.times.total > 0 && `up after ${seconds(b.times.total)}`].filter(Boolean).join(" · "))),
    known.length ? bar : null,
    h("dl", { class: "phases" }, known.map(([key, label]) => h("div", {}, h("dt", {}, h("span", { class: `dot ${key}`, "aria-hidden": "true" }), label), h("dd", {}, seconds(b.times[key]))))),
    b.console ? h("details", {}, h("summary", {}, `Console, ${b.console.split("\n").length} lines`), h("pre", { class: "console", tabindex: "0", "aria-label": `Console of the ${b.firmware} boot` }, clean(b.console))) : null);
}

/** clean drops the terminal's escape sequences, which a page would show as noise. */
// eslint-disable-next-line no-control-regex
const clean = (text) => text.replace(/\u001b(?:\[[0-9;?]*[ -/]*[@-~]|[()][A-Z0-9]|\][^\u0007]*\u0007|.)/g, "").replace(/[\u0000-\u0008\u000b-\u001f]/g, "");

const titles = { check: "File system, without booting", boot: "Booted" };
const marks = { passed: "✓", failed: "✗", skipped: "–" };

function suite(s) {
  const id = `suite-${s.name}`;
  const started = s.started && !s.started.startsWith("0001") ? new Date(s.started).toISOString().replace("T", " ").slice(0, 16) + " UTC" : "";
  const order = { failed: 0, passed: 1, skipped: 2 };
  const checks = (s.checks || []).map((c, n) => [c, n]).sort((a, b) => (order[a[0].result] ?? 0) - (order[b[0].result] ?? 0) || a[1] - b[1]).map(([c]) => c);
  return h("section", { "aria-labelledby": id },
    h("h2", { id }, titles[s.name] || s.name, " ", h("span", { class: "quiet" }, [`${checks.length} checks`, seconds(s.seconds || 0), started].filter(Boolean).join(" · "))),
    h("div", { class: "scroll" }, h("table", { class: "checks" },
      h("thead", {}, h("tr", {}, ["Result", "Check", "Time", "Evidence"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, checks.map(check)))));
}

function check(c) {
  const result = marks[c.result] ? c.result : "failed";
  return h("tr", { class: result, id: anchor(c) },
    h("td", { class: "result" }, h("span", { "aria-hidden": "true" }, marks[result]), ` ${c.result}`),
    h("th", { scope: "row" }, h("span", { class: "name" }, c.name || c.id), h("code", { class: "quiet" }, c.id)),
    h("td", { class: "time" }, seconds(c.seconds || 0)),
    h("td", {}, evidence(c)));
}

function evidence(c) {
  const text = clean(c.evidence || "");
  if (!text) return null;
  const first = text.split("\n", 1)[0];
  if (text.length <= 100 && !text.includes("\n")) return h("span", { class: "evidence" }, text);
  return h("details", { open: c.result === "failed" }, h("summary", {}, first.length > 90 ? `${first.slice(0, 90)}…` : first), h("pre", { tabindex: "0" }, text));
}

async function start() {
  const query = new URLSearchParams(location.search);
  const name = query.get("image") || "";
  const back = query.get("back") || "";
  if (back.startsWith("?")) document.getElementById("back").href = `../${back}`;
  document.getElementById("title").textContent = name || "Test report";
  try {
    const index = await load("../index.json");
    const image = index.data.images.find((i) => i.name === name);
    if (!image) throw new Error(`the index has no image ${name}`);
    document.title = `${name} · test report`;
    document.getElementById("facts").textContent = facts(image);
    if (!image.report) throw new Error("this image has no test report");
    const report = await load(at(image.report.path));
    const suites = report.data.suites || [];
    main.append(...[
      verdict(image),
      failures(suites),
      h("p", { class: "links" }, h("a", { href: at(image.report.path) }, "report as JSON"), h("a", { href: at(image.manifest) }, "manifest"),
        (image.report.logs || []).map((path) => h("a", { href: at(path) }, logLabel(path.slice(base(image).length + 1)))),
        image.job ? h("a", { href: /^https?:/.test(image.job) ? image.job : "#" }, "CI job") : null),
      boots(suites.flatMap((s) => s.boots || [])),
      ...suites.map(suite),
    ].filter(Boolean));
  } catch (error) {
    main.append(h("p", { class: "notice", role: "alert" }, `There is no report to show: ${error.message}.`));
  }
  main.removeAttribute("aria-busy");
}

start();
