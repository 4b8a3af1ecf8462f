// The finder: reads index.json and shows what the filters let through. The filters live in the URL's query, so that a
// view can be linked. All data reach the page as text nodes and attributes, never as markup.

const page = 40; // images rendered at once
const form = document.getElementById("filters");
const list = document.getElementById("images");
const count = document.getElementById("count");
const more = document.getElementById("more");
const said = document.getElementById("said");

let images = [];
let matching = [];
let shown = 0;

/** h makes an element: attributes and "on…" listeners from props, then its children, strings as text. */
function h(tag, props, ...children) {
  const e = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
    else e.setAttribute(key, value === true ? "" : value);
  }
  e.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return e;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  return `${unit === 0 ? bytes : bytes.toFixed(1).replace(/\.0$/, "")} ${units[unit]}`;
}

const formatLabel = (format) => (format === "internal" ? "tar.xz" : format);
const absolute = (path) => new URL(path.split("/").map(encodeURIComponent).join("/"), document.baseURI).href;

/** releaseLabel gives "trixie (13)"; sid has no number. */
const releaseLabel = (i) => (i.releaseId === i.release ? i.release : `${i.release} (${i.releaseId})`);

function filters() {
  return Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim() !== "").map(([key, value]) => [key, value.trim()]));
}

/** matcher compiles the filters to a test of one image. */
function matcher(f) {
  const words = (f.q || "").toLowerCase().split(/[\s,]+/).filter(Boolean);
  const version = (f.version || "").replaceAll("-", "");
  return (i) =>
    (!f.release || i.release === f.release) &&
    (!f.vendor || i.vendor === f.vendor) &&
    (!f.arch || i.arch === f.arch) &&
    (!f.type || i.uploadType === f.type) &&
    (!version || i.version.replaceAll("-", "").startsWith(version)) &&
    (f.old || f.version || i.latest) &&
    words.every((w) => (exact.has(w) ? i.words.has(w) : i.text.includes(w)));
}

// Words that name a release, vendor, arch or type match only that: "13" is trixie, not every 13th of a month.
const exact = new Set();

function prepare(i) {
  i.words = new Set([i.release, i.releaseId, i.vendor, i.arch, i.uploadType].map((w) => w.toLowerCase()));
  i.words.forEach((w) => exact.add(w));
  i.text = [i.name, i.release, i.releaseId, i.vendor, i.arch, i.uploadType, i.version, i.date, ...Object.values(i.versions || {}), ...(i.uploads || []).flatMap((u) => [providerLabel(u.provider), u.provider, u.region, u.ref])].join(" ").toLowerCase();
}

function options(id, pairs) {
  const select = document.getElementById(id);
  for (const [value, label] of new Map(pairs)) select.append(h("option", { value }, label));
}

/** fromURL puts the query into the form. A release may be given by number there. */
function fromURL() {
  const query = new URLSearchParams(location.search);
  for (const e of form.elements) {
    if (!e.name) continue;
    let value = query.get(e.name) || "";
    if (e.name === "release") value = (images.find((i) => i.releaseId === value) || { release: value }).release;
    if (e.type === "checkbox") e.checked = value !== "";
    else e.value = value;
    if (e.tagName === "SELECT" && value && e.value !== value) {
      e.append(h("option", { value }, value)); // keep what a link asks for, though nothing has it
      e.value = value;
    }
  }
}

function toURL() {
  const query = new URLSearchParams(filters()).toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
}

function search() {
  const f = filters();
  matching = images.filter(matcher(f));
  shown = 0;
  list.replaceChildren();
  showMore();
  const noun = (n) => `${n} image${n === 1 ? "" : "s"}`;
  count.textContent = matching.length === images.length ? noun(images.length) : `${matching.length} of ${noun(images.length)}`;
  if (matching.length === 0) showNothing(f);
}

function showNothing(f) {
  const older = !f.old && images.filter(matcher({ ...f, old: "1" })).length;
  list.append(h("li", { class: "nothing" },
    h("p", {}, "No image matches these filters."),
    older ? h("button", { type: "button", onclick: () => { form.elements.old.checked = true; changed(); } }, `Show ${older} of older versions`) : null));
}

function showMore() {
  const first = shown;
  const fragment = document.createDocumentFragment();
  for (const i of matching.slice(shown, shown + page)) fragment.append(row(i));
  shown = Math.min(shown + page, matching.length);
  list.append(fragment);
  more.hidden = shown >= matching.length;
  more.textContent = `Show ${Math.min(page, matching.length - shown)} more of ${matching.length - shown}`;
  return list.children[first];
}

function row(i) {
  return h("li", { class: "image", id: i.name },
    h("div", { class: "what" },
      h("h2", {}, h("span", { class: "release" }, releaseLabel(i)), " ", h("span", { class: "vendor" }, i.vendor), " ", h("span", { class: "arch" }, i.arch)),
      h("p", { class: "facts" },
        h("span", { class: `badge ${i.uploadType}` }, i.uploadType),
        i.latest ? h("span", { class: "badge latest" }, "latest") : null,
        h("span", { class: "version" }, i.version)),
      h("p", { class: "facts quiet" }, ...inside(i)),
      tests(i)),
    i.files.length ? h("ul", { class: "files", "aria-label": `Files of ${i.name}` }, i.files.map((f) => file(i, f))) : null,
    clouds(i));
}

const providers = {
  "aws.amazon.com": "Amazon EC2", "azure.microsoft.com": "Azure", "cloud.google.com": "Google Cloud",
  "alibabacloud.com": "Alibaba Cloud", "openstack.org": "OpenStack",
};
const providerLabel = (domain) => providers[domain] || domain;

/** clouds lists what other providers have of the image, a table a provider, a row a region. */
function clouds(i) {
  const tables = Map.groupBy(i.uploads || [], (u) => u.provider);
  if (tables.size === 0) return null;
  const label = ([provider, uploads]) => `${providerLabel(provider)}${uploads.length > 1 ? ` (${uploads.length} regions)` : ""}`;
  return h("details", { class: "clouds", open: i.files.length === 0 },
    h("summary", { "aria-label": `Start ${i.name} at a cloud` }, `Start it at ${[...tables].map(label).join(", ")}`),
    [...tables].map(([provider, uploads]) => h("div", { class: "scroll" },
      h("table", {},
        h("caption", {}, providerLabel(provider), uploads[0].family ? h("span", { class: "quiet" }, ` newest: `, h("code", {}, uploads[0].family)) : null),
        h("thead", {}, h("tr", {}, ["Region", "Image ID", "Start a VM"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, uploads.map((u) => upload(i, u)))))));
}

function upload(i, u) {
  const where = `${i.name} in ${u.region || "every region"}`;
  const button = (key, text, value) => value
    ? h("button", { type: "button", "data-copy": key, title: value, "aria-label": `Copy the ${text} for ${where}`, onclick: (e) => copy(e.currentTarget, value, `${text} for ${where}`) }, h("span", { class: "verb" }, "Copy "), text)
    : null;
  return h("tr", {},
    h("th", { scope: "row" }, u.region || "everywhere"),
    h("td", {}, h("code", {}, u.ref), button("ref", "ID", u.ref)),
    h("td", {}, /^https:/.test(u.launch || "") ? h("a", { href: u.launch, rel: "noopener noreferrer", "aria-label": `Launch ${where}` }, "launch") : null,
      button("cli", "CLI", u.cli), button("hcl", "Terraform", u.hcl)));
}

function inside(i) {
  const v = i.versions || {};
  return [
    v.kernel ? h("span", {}, `Linux ${v.kernel}`) : null,
    v["cloud-init"] ? h("span", {}, `cloud-init ${v["cloud-init"]}`) : null,
    i.packages ? h("span", {}, `${i.packages} packages`) : null,
    h("a", { href: absolute(i.manifest), "aria-label": `Manifest of ${i.name}` }, "manifest"),
  ];
}

function tests(i) {
  const r = i.report;
  if (!r) return h("p", { class: "tests quiet" }, "no test report");
  const fine = r.failed === 0 && r.passed > 0;
  const query = new URLSearchParams({ image: i.name });
  if (location.search) query.set("back", location.search);
  const boots = (r.boots || []).filter((b) => b.total > 0).map((b) => `${b.firmware.toUpperCase()} ${b.total.toFixed(1)} s`);
  return h("p", { class: `tests ${fine ? "passed" : "failed"}` },
    h("a", { href: `finder/report.html?${query}`, "aria-label": `Test report of ${i.name}` },
      h("span", { class: "mark", "aria-hidden": "true" }, fine ? "✓" : "✗"),
      fine ? ` ${r.passed} checks passed` : ` ${r.failed} checks failed`),
    boots.length ? h("span", { class: "quiet" }, ` booted: ${boots.join(", ")}`) : null);
}

function file(i, f) {
  const label = formatLabel(f.format);
  const name = f.path.slice(f.path.lastIndexOf("/") + 1);
  return h("li", { class: f.missing ? "missing" : undefined },
    f.missing ? h("span", { class: "format" }, label) : h("a", { class: "format", href: absolute(f.path), download: true, "aria-label": `Download ${name}` }, label),
    h("span", { class: "size" }, f.missing ? "not here" : size(f.size)),
    h("button", { type: "button", "data-copy": "url", "aria-label": `Copy the URL of ${name}`, onclick: (e) => copy(e.currentTarget, absolute(f.path), `URL of ${name}`) }, h("span", { class: "verb" }, "Copy "), "URL"),
    h("button", { type: "button", "data-copy": "sha512", title: f.sha512, "aria-label": `Copy the SHA-512 checksum of ${name}`, onclick: (e) => copy(e.currentTarget, f.sha512, `SHA-512 of ${name}`) }, h("span", { class: "verb" }, "Copy "), "SHA512"));
}

/** copy puts text into the clipboard. Browsers offer their clipboard only over HTTPS and on localhost. */
async function copy(button, text, what) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyBySelection(text);
    button.focus();
  }
  say(done ? `Copied the ${what}` : `Copy it yourself: ${text}`);
  if (!done) return;
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1500);
}

function copyBySelection(text) {
  const area = h("textarea", { class: "offscreen", readonly: true, "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

let silence;
function say(text) {
  said.textContent = text;
  said.classList.add("shown");
  clearTimeout(silence);
  silence = setTimeout(() => said.classList.remove("shown"), 3000);
}

function changed() {
  toURL();
  search();
}

let typing;
function listen() {
  form.addEventListener("submit", (e) => e.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { history.replaceState(null, "", location.pathname); fromURL(); search(); form.elements.q.focus(); }));
  form.addEventListener("input", (e) => {
    clearTimeout(typing);
    typing = setTimeout(changed, e.target.tagName === "INPUT" && e.target.type !== "checkbox" ? 120 : 0);
  });
  addEventListener("popstate", () => { fromURL(); search(); });
  addEventListener("keydown", (e) => {
    if (e.key === "/" && !e.ctrlKey && !e.metaKey && !e.altKey && !/^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) {
      e.preventDefault();
      form.elements.q.focus();
    }
  });
  more.addEventListener("click", () => {
    const next = showMore();
    const link = next && next.querySelector("a");
    if (link) link.focus();
  });
}

async function start() {
  count.textContent = "Loading the index …";
  let index;
  try {
    const answer = await fetch("index.json");
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    index = await answer.json();
    if (index.kind !== "Index" || index.apiVersion !== "cloud.debian.org/v1alpha1") throw new Error("it is of another kind or schema");
  } catch (error) {
    count.textContent = `index.json cannot be read: ${error.message}`;
    return;
  }
  images = index.data.images;
  images.forEach(prepare);
  const sorted = (key) => [...new Set(images.map((i) => i[key]))].sort().map((v) => [v, v]);
  options("release", images.map((i) => [i.release, releaseLabel(i)]));
  options("vendor", sorted("vendor"));
  options("arch", sorted("arch"));
  options("type", [...new Set(images.map((i) => i.uploadType))].map((v) => [v, v]));
  document.getElementById("versions").append(...[...new Set(images.map((i) => i.version))].sort().reverse().slice(0, 200).map((value) => h("option", { value })));
  form.hidden = false;
  fromURL();
  listen();
  search();
}

start();
