package image_test

import (
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

func TestParseVersion(t *testing.T) {
	for _, row := range []struct {
		summary, text string
		ok            bool
	}{
		{"a daily of the field", "20250814-2204", true},
		{"the first of a day", "20260101-0", true},
		{"a leap day", "20240229-1", true},
		{"a day that does not exist", "20250229-1", false},
		{"two spellings of one number would be two names", "20250814-007", false},
		{"no number", "20250814", false},
		{"a number that overflows", "20250814-99999999999", false},
		{"a path", "20250814-1/../..", false},
		{"nothing", "", false},
	} {
		v, err := image.ParseVersion(row.text)
		if (err == nil) != row.ok {
			t.Errorf("%s: ParseVersion(%q): %v", row.summary, row.text, err)
			continue
		}
		if err == nil && v.String() != row.text {
			t.Errorf("%s: %q reads back as %q", row.summary, row.text, v)
		}
		if err != nil && fault.KindOf(err) != fault.Input {
			t.Errorf("%s: %v is not bad input", row.summary, err)
		}
	}
}

func TestDemandBuildID(t *testing.T) {
	for text, ok := range map[string]bool{
		"cloud-admin-team-master": true, "manual": true, "1.2+x": true,
		"": false, "../x": false, "a/b": false, "a b": false, "-x": false, ".hidden": false, "a\nb": false,
	} {
		if err := image.DemandBuildID(text); (err == nil) != ok {
			t.Errorf("DemandBuildID(%q) = %v", text, err)
		}
	}
}

func TestNames(t *testing.T) {
	cell := image.Cell{
		Release: image.Release{Name: "trixie-backports", Basename: "trixie", ID: "13-backports", BaseID: "13"},
		Vendor:  image.Vendor{Name: "genericcloud"},
		Arch:    image.Arch{Name: "amd64"},
	}
	dev := image.BuildType{Name: "dev", OutputName: "debian-{release}-{vendor}-{arch}-{build_type}-{build_id}-{version}", OutputVersion: "{version}"}
	official := image.BuildType{Name: "official", OutputName: "debian-{release}-{vendor}-{arch}-{build_type}-{version}", OutputVersion: "{date}-{version}"}
	v := image.Version{Date: "20250814", Number: 2204}
	for got, want := range map[string]string{
		cell.String():                        "trixie-backports genericcloud amd64",
		cell.ArtifactName(dev, "me-x", v):    "debian-trixie-backports-genericcloud-amd64-dev-me-x-2204",
		cell.ArtifactName(official, "me", v): "debian-trixie-backports-genericcloud-amd64-official-20250814-2204",
		image.PublicName("13", "ec2", "arm64", image.Published, "20250814-2204"): "debian-13-ec2-arm64-20250814-2204",
		image.PublicName("13", "ec2", "arm64", image.Daily, "20250814-2204"):     "debian-13-ec2-arm64-daily-20250814-2204",
		image.PublicName("13", "ec2", "arm64", image.Published, ""):              "debian-13-ec2-arm64",
		image.PublicDirectory("trixie", image.Published, "20250814-2204"):        "trixie/20250814-2204",
		image.PublicDirectory("trixie", image.Daily, "20250814-2204"):            "trixie/daily/20250814-2204",
		v.Time().Format("2006-01-02 15:04:05 MST"):                               "2025-08-14 00:00:00 UTC",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNamesOf(t *testing.T) {
	n, ok := image.NamesOf("amd64")
	if !ok || n.Machine != "x86_64" || n.EFI != "X64" {
		t.Errorf("amd64 is %+v", n)
	}
	for name, want := range map[string]bool{"amd64": true, "armhf": true, "mips64el": true, "x86_64": false, "": false} {
		if image.IsDebians(name) != want {
			t.Errorf("%q is Debian's: %t", name, !want)
		}
	}
	if _, ok := image.NamesOf("armhf"); ok {
		t.Error("nothing is known of armhf, but it is taken for one that images are built for")
	}
	if _, ok := image.NamesOf("x86_64"); ok {
		t.Error("x86_64 is no Debian architecture")
	}
}
