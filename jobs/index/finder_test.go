package index

import (
	"context"
	"crypto/sha512"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// window is a page of a headless Chromium on a served tree. Everything that the page complains about fails the test.
type window struct {
	t    *testing.T
	ctx  context.Context
	base string // URL of the tree
}

func openWindow(t *testing.T, dir string) *window {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: apt install chromium")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	server := httptest.NewServer(Handler(root.FS()))
	t.Cleanup(server.Close)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true),
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900), chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	w := &window{t: t, ctx: ctx, base: server.URL}
	w.do()
	w.listen()
	for _, name := range []string{"clipboard-read", "clipboard-write"} {
		if _, err := chromedp.CallBrowser(ctx, browser.SetPermission, browser.SetPermissionParams{
			Permission: &browser.PermissionDescriptor{Name: name}, Setting: browser.PermissionSettingGranted, Origin: server.URL,
		}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// listen collects what the browser's console says, from a policy's violation to an exception.
func (w *window) listen() {
	ctx, cancel := context.WithCancel(w.ctx)
	messages := chromedp.Console(ctx)
	var said []string
	var reading sync.WaitGroup
	reading.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			if !strings.HasSuffix(m.URL, "/favicon.ico") {
				said = append(said, m.String()+" "+m.URL)
			}
		}
	})
	w.t.Cleanup(func() {
		cancel()
		reading.Wait()
		for _, text := range said {
			w.t.Errorf("the browser complains: %s", text)
		}
	})
}

func (w *window) do(actions ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	if err := chromedp.Do(w.ctx, actions...); err != nil {
		w.t.Fatal(err)
	}
}

func visible(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.WaitVisible(chromedp.CSS(selector))
}

func click(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Click(chromedp.CSS(selector))
}

// open shows the finder with a query and waits for its images.
func (w *window) open(query string) {
	w.t.Helper()
	w.do(chromedp.Navigate(w.base+"/"+query), visible("#filters"))
	w.waitFor(`document.querySelector("#images").children.length > 0`)
}

// eval returns what the expression, or the promise of it, gives as a string.
func (w *window) eval(expression string) string {
	w.t.Helper()
	s, err := chromedp.Run(w.ctx, chromedp.Evaluate[string]("(async () => String(await ("+expression+")))()", chromedp.EvalAwaitPromise))
	if err != nil {
		w.t.Fatalf("%s: %v", expression, err)
	}
	return s
}

// waitFor asks until the expression is true. (chromedp.Poll makes functions of strings, which the page's policy forbids.)
func (w *window) waitFor(expression string) {
	w.t.Helper()
	for began := time.Now(); w.eval(expression) != "true"; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			w.t.Fatalf("%s does not become true; count: %s", expression, w.eval(`document.querySelector("#count")?.textContent`))
		}
	}
}

const shownNames = `[...document.querySelectorAll("#images > .image")].map((e) => e.id).join(" ")`

func (w *window) demand(what, expression, want string) {
	w.t.Helper()
	if got := w.eval(expression); got != want {
		w.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

const (
	trixieName   = "debian-13-genericcloud-amd64-20260814-1"
	bookwormName = "debian-12-genericcloud-amd64-20260813-1"
	dailyName    = "debian-13-nocloud-arm64-daily-20260815-2"
	oldName      = "debian-13-genericcloud-amd64-20260801-9"
)

func TestFinderFilters(t *testing.T) {
	dir := tree(t, trixie, trixieOld, trixieDaily, bookworm, sid)
	mustWrite(t, dir)
	w := openWindow(t, dir)
	for _, row := range []struct{ summary, query, want string }{
		{"the newest of each, releases first", "", trixieName + " " + bookwormName + " " + dailyName + " debian-sid-generic-amd64-daily-20260815-2"},
		{"a release by codename", "?release=bookworm", bookwormName},
		{"a release by number", "?release=12", bookwormName},
		{"a vendor and an architecture", "?vendor=nocloud&arch=arm64", dailyName},
		{"an upload type", "?type=daily&release=trixie", dailyName},
		{"older versions too", "?old=1&release=13&type=release", trixieName + " " + oldName},
		{"a version, which may be old", "?version=20260801-9", oldName},
		{"a day", "?version=2026-08-14", trixieName},
		{"words: a number is a release, not a part of a date", "?q=13+genericcloud", trixieName},
		{"words: a codename", "?q=Bookworm", bookwormName},
		{"words: a kernel's version", "?q=6.12.41+nocloud", dailyName},
		{"nothing has it", "?arch=s390x", ""},
	} {
		w.open(row.query)
		w.demand(row.summary, shownNames, row.want)
	}
	w.demand("the count", `document.querySelector("#count").textContent`, "0 of 5 images")
	w.open("")
	w.do(chromedp.SetValue(chromedp.CSS("#release"), "bookworm"))
	w.eval(`document.querySelector("#release").dispatchEvent(new Event("input", {bubbles: true}))`)
	w.waitFor(`document.querySelectorAll("#images > .image").length === 1`)
	w.demand("the view can be linked", "location.search", "?release=bookworm")
	w.demand("the count is told", `document.querySelector("#count").textContent + document.querySelector("#count").getAttribute("aria-live")`, "1 of 5 imagespolite")
}

func TestFinderCopiesAndShowsTheReport(t *testing.T) {
	dir := tree(t, trixie, bookworm)
	mustWrite(t, dir)
	w := openWindow(t, dir)
	w.open("?release=13")
	file := trixieName + ".qcow2"
	w.do(click(`button[aria-label="Copy the URL of `+file+`"]`), visible("#said.shown"))
	w.demand("the copied URL", "navigator.clipboard.readText()", w.base+"/trixie/20260814-1/"+file)
	w.do(click(`button[aria-label="Copy the SHA-512 checksum of ` + file + `"]`))
	w.waitFor(`document.querySelector("#said").textContent.includes("SHA-512")`)
	w.demand("the copied checksum", "navigator.clipboard.readText()", manifest.Digest(sha512.Sum512([]byte("contents of "+file))).Hex())
	w.do(click(`a[aria-label="Test report of `+trixieName+`"]`), visible(".verdict"))
	w.demand("the verdict", `document.querySelector(".verdict").textContent`, "✓ Passed 2 passed, 0 failed, 1 skipped")
	w.demand("evidence is text, not markup", `document.querySelector(".evidence").textContent`, "PARTUUID=5f1a <b>not markup</b>")
	w.demand("boot times", `document.querySelector(".boot h3").textContent`, "BIOS on KVM · up after 12.3 s")
	w.do(click(".boot summary"), visible(".console"))
	w.demand("the console, without its colours", `document.querySelector(".console").textContent`, "Debian GNU/Linux 13\nlogin:")
	w.demand("the raw report", `fetch(document.querySelector(".links a").href).then((a) => a.json()).then((r) => r.kind)`, "Report")
	w.do(click("#back"), visible("#filters"))
	w.demand("back to the same view", "location.search", "?release=13")
}

func TestReportPageShowsOnlyWhatTheIndexNames(t *testing.T) {
	dir := tree(t, bookworm)
	mustWrite(t, dir)
	w := openWindow(t, dir)
	w.do(chromedp.Navigate(w.base+"/finder/report.html?image="+bookwormName), visible(".verdict.failed"))
	w.demand("what failed is told at the top", `document.querySelector(".failures").textContent`, "bios/22-ssh: SSH answers")
	w.demand("and leads to the check", `document.querySelector(document.querySelector(".failures a").getAttribute("href")).className`, "failed")
	w.demand("failed checks come first and open", `document.querySelector("#suite-boot").closest("section").querySelector("tbody tr").className`, "failed")
	w.do(chromedp.Navigate(w.base+"/finder/report.html?image=%3Cimg+src%3Dx%3E&back=javascript:alert(1)"), visible(".notice[role=alert]"))
	w.demand("no markup from the query", `document.querySelectorAll("img").length`, "0")
	w.demand("no script from the query", `document.querySelector("#back").getAttribute("href")`, "../")
}

func TestFinderByKeyboardAlone(t *testing.T) {
	dir := tree(t, trixie, trixieOld, bookworm)
	mustWrite(t, dir)
	w := openWindow(t, dir)
	w.open("")
	w.do(chromedp.KeyEvent("/"))
	w.demand("/ leads to the search", "document.activeElement.id", "q")
	w.eval(`document.activeElement.value = ""`) // the protocol types "/" though the page prevented it, unlike a keyboard
	w.do(chromedp.KeyEvent("trixie"))
	w.waitFor(`location.search === "?q=trixie"`)
	w.demand("what is typed filters", shownNames, trixieName)
	label := func() string {
		return w.eval(`document.activeElement.getAttribute("aria-label") || document.activeElement.id`)
	}
	for n := 0; label() != "Copy the URL of "+trixieName+".tar.xz"; n++ {
		if n == 20 {
			t.Fatalf("20 tabs do not reach the first copy button; at %s", label())
		}
		w.do(chromedp.KeyEvent(kb.Tab))
	}
	w.demand("the focus is seen", `getComputedStyle(document.activeElement).outlineStyle`, "solid")
	w.do(chromedp.KeyEvent(kb.Enter), visible("#said.shown"))
	w.demand("Enter copies", "navigator.clipboard.readText()", w.base+"/trixie/20260814-1/"+trixieName+".tar.xz")
	w.demand("the focus stays", `document.activeElement.dataset.copy`, "url")
	w.demand("every control has a name", `[...document.querySelectorAll("input,select,button,a")].filter((e) => !e.hidden && !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim())).map((e) => e.outerHTML).join()`, "")
}

func TestFinderHoldsThousands(t *testing.T) {
	dir := t.TempDir()
	var images []manifest.IndexImage
	for n := range 5000 {
		name := fmt.Sprintf("debian-13-genericcloud-amd64-daily-202608%02d-%d", n%28+1, n)
		images = append(images, manifest.IndexImage{Name: name, Release: "trixie", ReleaseID: "13", Vendor: "genericcloud", Arch: "amd64", UploadType: image.Daily,
			Version: name[len("debian-13-genericcloud-amd64-daily-"):], Manifest: name + ".json", Files: []manifest.IndexFile{{Format: "internal", Path: name + ".tar.xz", Size: 1 << 28, SHA512: strings.Repeat("0", 128)}}})
	}
	if err := manifest.Write(filepath.Join(dir, IndexName), manifest.NewIndex(images)); err != nil {
		t.Fatal(err)
	}
	pages, err := finderFiles(manifest.NewIndex(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		if _, err := p.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	w := openWindow(t, dir)
	w.open("?old=1")
	w.demand("only the first are rendered", `document.querySelectorAll("#images > .image").length`, "40")
	w.do(click("#more"))
	w.demand("more on demand", `document.querySelectorAll("#images > .image").length`, "80")
	w.demand("the focus moves on", `document.activeElement.closest(".image") === document.querySelectorAll("#images > .image")[40]`, "true")
	took := w.eval(`(async () => {
		const began = performance.now();
		for (let n = 0; n < 5; n++) {
			document.querySelector("#q").value = "-49" + n;
			document.querySelector("#old").dispatchEvent(new Event("input", { bubbles: true }));
			await new Promise((done) => setTimeout(done));
		}
		return performance.now() - began;
	})()`)
	w.waitFor(`document.querySelector("#count").textContent.startsWith("11 of 5000")`)
	t.Logf("five searches among 5000 images took %s ms", took)
}

func TestPagesWorkWithoutScripts(t *testing.T) {
	dir := tree(t, trixie, trixieOld)
	mustWrite(t, dir)
	page, _ := os.ReadFile(filepath.Join(dir, "index.html"))
	all, _ := os.ReadFile(filepath.Join(dir, "finder/all.html"))
	link := "trixie/20260814-1/" + trixieName + ".qcow2"
	if !strings.Contains(string(page), `<a href="`+link+`">`) || strings.Contains(string(page), oldName) {
		t.Error("index.html does not list the newest images for browsers without JavaScript")
	}
	if !strings.Contains(string(all), `<a href="../`+link+`">`) || !strings.Contains(string(all), oldName) {
		t.Error("finder/all.html does not list all images")
	}
	for _, text := range []string{string(page), string(all)} {
		if strings.Contains(text, " style=") || strings.Contains(text, " onclick") || strings.Contains(text, "<script>") {
			t.Error("a page has inline style or script, which its policy forbids")
		}
	}
}
