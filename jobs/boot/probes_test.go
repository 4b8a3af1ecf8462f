package boot

import (
	"slices"
	"strings"
	"testing"
)

func TestParseProbes(t *testing.T) {
	for _, row := range []struct {
		summary, output string
		want            string // names of the probes found
	}{
		{"two probes", "@@ab begin swap\nx\n\n@@ab end swap 0 1\n@@ab begin ran\n\n@@ab end ran 1 2\n", "ran swap"},
		{"marks of another run in the output", "@@ab begin swap\n@@cd end swap 0 1\n\n@@ab end swap 0 1\n", "swap"},
		{"the guest died in the second", "@@ab begin swap\nx\n\n@@ab end swap 0 1\n@@ab begin ran\nhalf", "swap"},
		{"nothing", "", ""},
	} {
		var names []string
		for name := range parseProbes(row.output, "ab") {
			names = append(names, name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != row.want {
			t.Errorf("%s: found %q, want %q", row.summary, got, row.want)
		}
	}
	p := parseProbes("@@ab begin ran\n a \n b\n\n@@ab end ran 7 150\n", "ab")["ran"]
	if p.out != " a \n b" || p.exit != 7 || p.took.Seconds() != 1.5 {
		t.Errorf("got %+v", p)
	}
}

// Every probe that is asked for or read has a function in the script.
func TestProbesExist(t *testing.T) {
	asked := slices.Concat([]string{offProbe}, earlyProbes, earlyCloudProbes, settledProbes, cloudProbes, schemaProbes, updateProbes, againProbes)
	for _, c := range catalogue {
		for _, name := range c.reads {
			name = strings.TrimPrefix(name, "again/")
			if !slices.ContainsFunc(asked, func(a string) bool { return a == name || strings.HasPrefix(a, name+"=") }) {
				t.Errorf("%s reads the probe %s, which nobody asks for", c.id, name)
			}
		}
	}
	for _, name := range asked[1:] {
		name, _, _ = strings.Cut(name, "=")
		if !strings.Contains(probeScript, "\np_"+name+"() {") {
			t.Errorf("probes.sh has no function p_%s", name)
		}
	}
}

func TestSources(t *testing.T) {
	output := "'mirror+file:/etc/apt/mirrors/debian.list/dists/trixie/InRelease' etc_apt_trixie_InRelease 0 \n" +
		"'https://security.example:8443/debian-security/dists/trixie-security/InRelease' security_InRelease 0 \n" +
		"/etc/apt/mirrors/debian.list https://mirror.example/debian\n" +
		"/etc/apt/mirrors/debian.list http://mirror.example/debian priority:2\n"
	suites, mirrors := parseSources(output)
	if !slices.Equal(suites, []string{"trixie", "trixie-security"}) {
		t.Errorf("suites are %q", suites)
	}
	want := []string{"mirror.example:443", "mirror.example:80", "security.example:8443"}
	if got := mirrorAddresses(mirrors); !slices.Equal(got, want) {
		t.Errorf("addresses are %q, want %q", got, want)
	}
	if got := wantedSuites("bookworm-backports"); !slices.Equal(got, []string{"bookworm", "bookworm-updates", "bookworm-security", "bookworm-backports"}) {
		t.Errorf("suites are %q", got)
	}
}

func TestSignedSuites(t *testing.T) {
	got := signedSuites("== /etc/apt/sources.list\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian a main\ndeb http://mirror.example/debian b main\n\n" +
		"== /etc/apt/sources.list.d/x.sources\nTypes: deb\nSuites: c d\nSigned-By: /k.gpg\n\nTypes: deb\nSuites: e\n")
	for suite, want := range map[string]bool{"a": true, "b": false, "c": true, "d": true, "e": false} {
		if got[suite] != want {
			t.Errorf("suite %s is signed: %v", suite, got[suite])
		}
	}
}

func TestSockets(t *testing.T) {
	got := parseSockets("udp UNCONN 0      0      192.168.127.2%enp0s2:68   0.0.0.0:* users:((\"systemd-network\",pid=655,fd=30))\n" +
		"tcp LISTEN 0      128                [::]:22      [::]:* users:((\"sshd\",pid=742,fd=7))            \n" +
		"udp UNCONN 0      0            127.0.0.1:323   0.0.0.0:* users:((\"chronyd\",pid=655,fd=30))\n" +
		"udp UNCONN 0      0            0.0.0.0:123   0.0.0.0:* users:((\"chronyd\",pid=655,fd=31))\n")
	want := []bool{true, true, true, false}
	if len(got) != len(want) {
		t.Fatalf("found %v", got)
	}
	for i, s := range got {
		if isExpected(s) != want[i] {
			t.Errorf("%s is expected: %v", s, !want[i])
		}
	}
}
