package settings

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

const examplePath = "../../packaging/executor.yaml"

func readExample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestExampleIsTheDefaults holds that the file in the package says what holds without it, for every setting.
func TestExampleIsTheDefaults(t *testing.T) {
	example := readExample(t)
	got, err := Parse(examplePath, []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Path = examplePath
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the example says\n%+v\nthe defaults are\n%+v", got, want)
	}
	for _, key := range keysOf(reflect.TypeFor[Settings]()) {
		if !regexp.MustCompile(`(?m)(^|[ #{])` + key + `:`).MatchString(example) {
			t.Errorf("the example does not mention %q", key)
		}
	}
}

// keysOf lists the keys of a struct and of all structs in it.
func keysOf(typ reflect.Type) []string {
	var keys []string
	switch typ.Kind() {
	case reflect.Slice, reflect.Map:
		return keysOf(typ.Elem())
	case reflect.Struct:
		for i := range typ.NumField() {
			f := typ.Field(i)
			if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "-" {
				keys = append(append(keys, name), keysOf(f.Type)...)
			}
		}
	}
	return keys
}

// TestExampleUncommented holds that what stands in the example's comments is right too.
func TestExampleUncommented(t *testing.T) {
	text := regexp.MustCompile(`(?m)^#(  +|)([a-z-])`).ReplaceAllString(readExample(t), "$1$2")
	text = strings.Replace(text, "  textfile: \"\"\n", "", 1)
	s, err := Parse("example", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Images) != 3 || len(s.Projects) != 2 || len(s.WarmPool.VMs) != 1 || len(s.Testbed.Projects) != 1 || s.Metrics.Textfile == "" {
		t.Errorf("%+v", s)
	}
	if !strings.Contains(text, "#\n") || s.Images["plain"].Limits.Max.Memory != 2<<30 {
		t.Errorf("the examples were not taken out of their comments:\n%s", text)
	}
}

func TestFaults(t *testing.T) {
	for _, row := range []struct{ summary, text, says string }{
		{"an unknown key is named with its line", "pool:\n  name: a\n  pth: /b\n", `x.yaml: line 3: there is no setting "pth" here`},
		{"at the top too", "\nimage: {}\n", `line 2: there is no setting "image" here`},
		{"a key that stands twice", "state: /a\nstate: /b\n", `line 2: mapping key "state" already defined at line 1`},
		{"broken YAML", "state: [\n", "x.yaml: line "},
		{"two documents", "state: /a\n---\nstate: /b\n", "more than one YAML document"},
		{"a number that is none", "budget: {vms: many}\n", `line 1: "many" is not a whole number`},
		{"a list where a mapping belongs", "pool: [a]\n", "line 1: a list is not a mapping"},
		{"a size that is none", "console:\n  cap: 16 pounds\n", `line 2: "16 pounds" is no size`},
		{"a duration without its unit", "agent: {boot: 30}\n", `line 1: "30" is not a duration such as 90s`},
		{"a duration of nothing", "agent:\n  connect: 0s\n", "line 2: agent.connect: 0s is shorter than a second"},
		{"a relative directory", "state: lib\n", `line 1: state: "lib" is no absolute path`},
		{"a directory too long for sockets in it", "run: /" + strings.Repeat("r", 60) + "\n", "line 1: run: "},
		{"another host's libvirt", "libvirt: {uri: 'qemu+ssh://host/system'}\n", "line 1: libvirt.uri: "},
		{"a user's libvirt", "libvirt: {uri: 'qemu:///session'}\n", "line 1: libvirt.uri: libvirt URI \"qemu:///session\" is no system daemon of this host: qemu:///system is one"},
		{"a network without a filter", "networks:\n  fork: {mode: nat, name: a, filter: ''}\n", "line 2: networks.fork.filter: mode nat needs"},
		{"a subnet that is somebody's", "networks:\n  fork: {subnet: 192.0.2.0/24}\n", `line 2: networks.fork.subnet: "192.0.2.0/24" is neither private`},
		{"two networks that share addresses", "networks:\n  fork:\n    name: forks\n    subnet: 198.18.2.0/24\n", "line 4: networks.fork.subnet: 198.18.2.0/24 of network forks overlaps 198.18.0.0/22 of network debcloud"},
		{"a second network without a subnet of its own", "networks:\n  fork:\n    name: forks\n", "networks.fork.subnet: 198.18.0.0/22 of network forks overlaps"},
		{"one network with two subnets", "networks:\n  unprotected: {subnet: 10.1.0.0/24}\n  fork: {mode: none}\n", "line 2: networks.unprotected.subnet: is 10.1.0.0/24, and networks.protected gives the same network debcloud 198.18.0.0/22"},
		{"an unknown mode", "networks:\n  fork:\n    mode: bridge\n", `line 3: networks.fork.mode: "bridge" is none of: nat, none, user`},
		{"an image pinned by half a digest", "images:\n  a.b: {digest: 'sha512:00'}\n", "line 2: images.a.b.digest: "},
		{"an image from two places", "images:\n  a: {file: /a, digest: 'sha512:" + strings.Repeat("0", 128) + "'}\n", "has both a digest and a file"},
		{"no image at all", "images: {}\n", "line 1: images: is empty, so no job can run"},
		{"many images and no default", "images: {a: {}, b: {}}\n", `default_image: "" is none of: a, b`},
		{"a default that is not there", "images: {a: {}}\ndefault_image: b\n", `line 2: default_image: "b" is none of: a`},
		{"a default over the maximum", "limits:\n  default: {cpus: 9}\n", "line 2: limits.default: is more than limits.max"},
		{"a disk that the budget would not count", "limits:\n  default:\n    cpus: 2\n    disk: 0\n", "line 4: limits.default.disk: 0 is no size"},
		{"a maximum of nothing", "limits: {max: {memory: 0}}\n", "line 1: limits.max.memory: 0 is no size"},
		{"a cleanup that nothing bounds", "deadlines:\n  cleanup: 1m\n", `line 2: there is no setting "cleanup" here`},
		{"a VM that boots nothing", "images:\n  a:\n    limits: {max: {memory: 4MiB}}\n", "images.a.limits.max.memory: 4MiB is too little"},
		{"a pattern that is none", "projects:\n  - {match: '[', limits: {}}\n", "line 2: projects.0.match: "},
		{"a budget below zero", "budget: {vms: -1}\n", "line 1: budget: has a number below zero"},
		{"a warm VM of an unknown image", "warm_pool:\n  vms:\n  - {image: b, refs: fork, count: 1}\n", `line 3: warm_pool.vms.0.image: "b" is none of: runner`},
		{"a warm VM of nobody", "warm_pool: {vms: [{image: runner, count: 1}]}\n", `warm_pool.vms.0.refs: "" is none of`},
		{"metrics for the world", "metrics: {address: '0.0.0.0:9465'}\n", "line 1: metrics.address: "},
		{"a textfile nobody reads", "metrics: {textfile: /a/b.txt}\n", "does not end in .prom"},
		{"a level that is none", "log: {level: loud}\n", `"loud" is none of: debug, info, warn, error`},
	} {
		_, err := Parse("x.yaml", []byte(row.text))
		if err == nil || !strings.Contains(err.Error(), row.says) || fault.KindOf(err) != fault.Input {
			t.Errorf("%s: %v\nwant: %s", row.summary, err, row.says)
		}
	}
}

func TestEveryFaultAtOnce(t *testing.T) {
	_, err := Parse("x.yaml", []byte("state: a\nrun: b\nlog: {level: c}\n"))
	want := "x.yaml: line 1: state: \"a\" is no absolute path without . and ..\n" +
		"line 2: run: \"b\" is no absolute path without . and ..\n" +
		"line 3: log.level: \"c\" is none of: debug, info, warn, error"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestOwnImagesReplaceTheDefault(t *testing.T) {
	s, err := Parse("x", []byte("images: {sid: {file: /sid.qcow2}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Image{"sid": {File: "/sid.qcow2", Format: "qcow2", Firmware: "bios"}}
	if !reflect.DeepEqual(s.Images, want) || s.DefaultImage != "sid" {
		t.Errorf("%+v, default %q", s.Images, s.DefaultImage)
	}
	if name, _, err := s.ImageFor(""); err != nil || name != "sid" {
		t.Errorf("no image: %q, %v", name, err)
	}
	if _, _, err := s.ImageFor("runner"); err == nil || !strings.Contains(err.Error(), `no VM image "runner" here; there are: sid`) {
		t.Errorf("an unknown image: %v", err)
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load("nowhere.yaml"); fault.KindOf(err) != fault.Input {
		t.Errorf("no file: %v", err)
	}
	s, err := Load(examplePath)
	if err != nil || s.Path != examplePath || s.Deadlines.Job != 24*time.Hour {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestMachineFor(t *testing.T) {
	s, err := Parse("x", []byte(`
limits: {default: {cpus: 2, memory: 4GiB, disk: 20GiB}, max: {cpus: 8, memory: 16GiB, disk: 60GiB}}
images:
  big: {}
  lean: {limits: {default: {cpus: 1, memory: 1GiB}, max: {cpus: 2, memory: 2GiB}}}
default_image: big
projects:
  - {match: team/images, limits: {default: {cpus: 6}, max: {cpus: 6}}}
  - {match: team/**, limits: {max: {memory: 3GiB}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	const gib = 1 << 30
	for _, row := range []struct {
		summary, project, image string
		asked                   Machine
		want                    Machine
		refused                 string
	}{
		{"a job that asks for nothing", "else/where", "big", Machine{}, Machine{2, 4 * gib, 20 * gib}, ""},
		{"an image's own default", "else/where", "lean", Machine{}, Machine{1, gib, 20 * gib}, ""},
		{"a project's default counts before the image's, up to the image's maximum", "team/images", "lean", Machine{}, Machine{2, gib, 20 * gib}, ""},
		{"a maximum lowers a default", "team/deep/er", "big", Machine{}, Machine{2, 3 * gib, 20 * gib}, ""},
		{"the first project that matches counts", "team/images", "big", Machine{}, Machine{6, 4 * gib, 20 * gib}, ""},
		{"a wish within the limits", "else/where", "big", Machine{CPUs: 8, Disk: 60 * gib}, Machine{8, 4 * gib, 60 * gib}, ""},
		{"too many processors", "team/images", "big", Machine{CPUs: 7}, Machine{}, "7 processors are more than the 6 that project team/images may have with image big"},
		{"too much memory", "team/other", "big", Machine{Memory: 4 * gib}, Machine{}, "4GiB of memory are more than the 3GiB"},
		{"too much disk", "else/where", "lean", Machine{Disk: 61 * gib}, Machine{}, "61GiB of disk are more than the 60GiB"},
		{"too little memory to boot with", "else/where", "lean", Machine{Memory: 1 << 20}, Machine{}, "1MiB of memory, by DEBCLOUD_MEMORY, are too little for any VM: at least 128MiB"},
		{"the least memory", "else/where", "lean", Machine{Memory: 128 << 20}, Machine{1, 128 << 20, 20 * gib}, ""},
		{"less than nothing", "else/where", "lean", Machine{CPUs: -1}, Machine{}, "cannot be"},
	} {
		got, err := s.MachineFor(row.project, row.image, row.asked)
		if row.refused == "" && (err != nil || got != row.want) {
			t.Errorf("%s: %+v, %v; want %+v", row.summary, got, err, row.want)
		}
		if row.refused != "" && (err == nil || !strings.Contains(err.Error(), row.refused)) {
			t.Errorf("%s: %v; want %s", row.summary, err, row.refused)
		}
	}
}

func TestRefs(t *testing.T) {
	s, err := Parse("x", []byte("networks: {fork: {mode: none}, unprotected: {mode: user}}\ntestbed: {projects: [team/*]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for class, mode := range map[string]string{Protected: NAT, Unprotected: User, Fork: None, "strange": None} {
		if got := s.NetworkFor(class).Mode; got != mode {
			t.Errorf("a job of a %s ref gets network %q, want %q", class, got, mode)
		}
	}
	for _, row := range []struct {
		project, class string
		allowed        bool
	}{
		{"team/images", Protected, true}, {"Team/Images", Protected, true}, {"team/images", Unprotected, false},
		{"team/images", Fork, false}, {"team/a/b", Protected, false}, {"other/images", Protected, false},
	} {
		if got := s.TestbedFor(row.project, row.class); got != row.allowed {
			t.Errorf("test bed for a %s ref of %s: %v", row.class, row.project, got)
		}
	}
	if _, err := Parse("x", []byte("networks: {fork: {name: forks, subnet: 198.18.4.0/22}, unprotected: {mode: none}}\n")); err != nil {
		t.Errorf("two networks side by side: %v", err)
	}
	s.Testbed.Unprotected = true
	if !s.TestbedFor("team/images", Unprotected) || s.TestbedFor("team/images", Fork) {
		t.Error("unprotected: true does not allow unprotected refs alone")
	}
}

func TestMatches(t *testing.T) {
	for _, row := range []struct {
		pattern, project string
		want             bool
	}{
		{"a/b", "a/b", true}, {"a/*", "a/b", true}, {"a/*", "a/b/c", false}, {"a/**", "a/b/c", true}, {"a/**", "a", false},
		{"a/**", "ab/c", false}, {"*/b/**", "a/b/c/d", true}, {"**", "a/b/c", true}, {"**", "a", true},
	} {
		if got := matches(row.pattern, row.project); got != row.want {
			t.Errorf("%s matches %s: %v", row.pattern, row.project, got)
		}
	}
}

func TestSize(t *testing.T) {
	for _, row := range []struct {
		text  string
		bytes Size
		again string
	}{
		{"0", 0, "0"}, {"1024", 1024, "1KiB"}, {"1.5GiB", 3 << 29, "1536MiB"}, {"6G", 6 << 30, "6GiB"}, {"2 TiB", 2 << 40, "2TiB"}, {"1001", 1001, "1001"},
	} {
		got, err := ParseSize(row.text)
		if err != nil || got != row.bytes || got.String() != row.again {
			t.Errorf("%q: %d, %v, written as %q", row.text, got, err, got.String())
		}
	}
	for _, text := range []string{"", "-1", "GiB", "1GB", "NaN", "Inf", "1e30", "0x10", "9999999TiB", "1GiBGiB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
