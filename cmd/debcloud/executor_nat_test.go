package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
)

// inside runs a program in the network namespace of a bed's libvirtd until the test ends.
func inside(t *testing.T, b *runnertest.Bed, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(b.Daemon.Init()), "-n"}, args...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// serve makes an address of the namespace and answers HTTP there.
func serve(t *testing.T, b *runnertest.Bed, address, text string) {
	t.Helper()
	dir := filepath.Join(b.Dir, "www-"+address)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := inside(t, b, "ip", "address", "add", address+"/32", "dev", "lo").Wait(); err != nil {
		t.Fatal(err)
	}
	inside(t, b, "busybox", "httpd", "-f", "-p", address+":80", "-h", dir)
}

// mayReach is the beginning of scripts that try what they reach. The network is up when they begin. A static busybox's wget would crash in
// the name service, which wants to load libraries.
const mayReach = `may() { printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 4 "$1" "${2:-80}" >/tmp/got 2>/dev/null; if [ -s /tmp/got ]; then echo "$1 answers: $(tail -n 1 /tmp/got)"; else echo "$1 is out of reach"; fi; }
own=$(ip -4 -o addr show dev eth0 | sed 's/.*inet \([0-9.]*\).*/\1/')
`

// The network of jobs: out to the Internet, in the guest's own name, and nowhere else.
func TestExecutorNAT(t *testing.T) {
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		t.Skip("dnsmasq is not installed")
	}
	b := runnertest.NewBed(t, runnertest.Options{Image: testGuest(t), Network: "nat", Namespace: true})
	serve(t, b, "203.0.113.5", "the Internet")
	serve(t, b, "10.9.9.9", "somebody's intranet")
	serve(t, b, "169.254.169.254", "metadata of the host's cloud")
	inside(t, b, "busybox", "httpd", "-f", "-p", "0.0.0.0:8080", "-h", b.Dir)

	neighbour := make(chan runnertest.Outcome, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, job := newRunner(t, b), newJob(script("build_script", mayReach+"mkdir -p /www; echo neighbour >/www/index.html; httpd -p 80 -h /www; may $own; sleep 600\n"))
	go func() { neighbour <- r.Play(ctx, job) }()
	address := leased(t, b)
	o := newRunner(t, b).Play(t.Context(), newJob(script("build_script", mayReach+`
may 203.0.113.5
may 10.9.9.9
may 169.254.169.254
may 198.18.0.1 8080
may `+address+`
be() { ip addr flush dev eth0; ip addr add $1/22 dev eth0; ip route add default via 198.18.0.1; }
be 198.18.3.3
echo "as somebody else:"
may 203.0.113.5
be $own
echo "as itself again:"
may 203.0.113.5
`)))
	for _, text := range []string{"203.0.113.5 answers: the Internet", "10.9.9.9 is out of reach", "169.254.169.254 is out of reach",
		"198.18.0.1 is out of reach", address + " is out of reach", "as somebody else:\n203.0.113.5 is out of reach",
		"as itself again:\n203.0.113.5 answers: the Internet"} {
		if !strings.Contains(o.Log, text) {
			t.Errorf("the log lacks %q", text)
		}
	}
	if t.Failed() {
		t.Log(o)
	}
	cancel()
	if n := <-neighbour; !strings.Contains(n.Log, address+" answers: neighbour") {
		t.Error(n)
	}
	nothingLeft(t, b)
}

// leased waits until dnsmasq has given an address.
func leased(t *testing.T, b *runnertest.Bed) string {
	t.Helper()
	form := regexp.MustCompile(`"ip-address": *"([0-9.]+)"`)
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		files, _ := filepath.Glob(filepath.Join(b.Dir, "d", "lib", "dnsmasq", "*.status"))
		for _, path := range files {
			text, _ := os.ReadFile(path)
			if m := form.FindSubmatch(text); m != nil {
				return string(m[1])
			}
		}
	}
	log, _ := os.ReadFile(b.Log)
	t.Fatalf("nobody got an address; host's log:\n%s", log)
	return ""
}
