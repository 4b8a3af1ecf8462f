package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

const (
	mib       = 1 << 20
	espStart  = 2 * mib
	espSize   = 34 * mib
	rootStart = 36 * mib
	rootSize  = 12 * mib
	imageSize = 49 * mib
)

// tool runs a program of e2fsprogs or dosfstools.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		t.Skipf("no %s: install e2fsprogs and dosfstools", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// unpack writes a tree of memory to the disk.
func unpack(t testing.TB, tree tree) string {
	dir := t.TempDir()
	names := slices.Sorted(maps.Keys(tree.MapFS))
	for _, name := range names {
		f, path := tree.MapFS[name], filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case f.Mode.IsDir():
			if err = os.MkdirAll(path, 0o755); err == nil {
				err = os.Chmod(path, f.Mode)
			}
		case f.Mode.Type() == fs.ModeSymlink:
			err = os.Symlink(string(f.Data), path)
		default:
			err = os.WriteFile(path, f.Data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var (
	imageOnce  sync.Once
	imageBytes []byte
)

// makeImage returns the path of a copy of the sound image, and of its Build document.
func makeImage(t testing.TB) (raw, build string) {
	t.Helper()
	imageOnce.Do(func() { imageBytes = assemble(t) })
	if imageBytes == nil {
		t.Skip("the image could not be made, see the first test that needed it")
	}
	raw = filepath.Join(t.TempDir(), "image.raw")
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(imageSize); err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 4096)
	for at := 0; at < imageSize; at += len(zeros) {
		if block := imageBytes[at : at+len(zeros)]; !bytes.Equal(block, zeros) {
			if _, err := f.WriteAt(block, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return raw, describe(t, raw)
}

func assemble(t testing.TB) []byte {
	s, root := sound()
	raw := filepath.Join(t.TempDir(), "image.raw")
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(imageSize); err != nil {
		t.Fatal(err)
	}
	table := &gpt.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512, ProtectiveMBR: true, Partitions: []*gpt.Partition{
		{Index: 1, Type: gpt.Type(strings.ToUpper(s.arch().Root)), GUID: strings.ToUpper(rootGUID), Start: rootStart / 512, End: (rootStart+rootSize)/512 - 1},
		{Index: 14, Type: gpt.Type(strings.ToUpper(typeBIOS)), GUID: "37F4E814-BCBA-5759-8D34-945A9127B2C3", Start: 2048, End: espStart/512 - 1},
		{Index: 15, Type: gpt.EFISystemPartition, GUID: strings.ToUpper(espGUID), Start: espStart / 512, End: rootStart/512 - 1},
	}}
	if err := table.Write(f, imageSize); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xeb, 0x63}, 0); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.ext4", "-q", "-F", "-d", unpack(t, root), "-E", "offset="+strconv.Itoa(rootStart), raw, strconv.Itoa(rootSize/1024)+"k")
	tool(t, "mkfs.fat", "-F", "32", "--offset", strconv.Itoa(espStart/512), raw, strconv.Itoa(espSize/1024))
	drive := fmt.Sprintf("%s@@%d", raw, espStart)
	esp := unpack(t, s.esp.(tree))
	tool(t, "mcopy", "-s", "-i", drive, filepath.Join(esp, "EFI"), "::/")
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// describe writes the Build document of an image as it is now.
func describe(t testing.TB, raw string) string {
	t.Helper()
	s, _ := sound()
	build := *s.build
	build.APIVersion, build.Kind = manifest.APIVersion, "Build"
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	digest, err := manifest.DigestOf(f)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	build.Metadata.SetDigest(digest)
	build.Data.Image = &manifest.ImageFile{Name: filepath.Base(raw), Size: info.Size()}
	path := strings.TrimSuffix(raw, ".raw") + ".build.json"
	if err := manifest.Write(path, &build); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunRecords(t *testing.T) {
	raw, build := makeImage(t)
	ctx := context.Background()
	suite, err := Run(ctx, Options{BuildPath: build})
	if err != nil {
		t.Fatal(err)
	}
	if !suite.Passed() || len(suite.Checks) != len(catalogue) {
		t.Fatalf("%d checks, failed: %+v", len(suite.Checks), suite.Failures())
	}
	base := manifest.Base(build)
	report, err := manifest.ReadReport(base + ".report.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := manifest.ReadBuild(build)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := document.Metadata.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := report.DemandPassed(digest, "check"); err != nil {
		t.Error(err)
	}
	junit, err := os.ReadFile(base + ".check.xml")
	if err != nil || !bytes.Contains(junit, []byte(`name="11-packages-installed: Every package is installed`)) {
		t.Errorf("JUnit: %v\n%s", err, junit)
	}

	again, err := Run(ctx, Options{BuildPath: build})
	if err != nil || !again.Started.Equal(suite.Started) {
		t.Errorf("a passed image was checked again: %v", err)
	}
	again, err = Run(ctx, Options{BuildPath: build, Again: true})
	if err != nil || again.Started.Equal(suite.Started) {
		t.Errorf("--again did not check again: %v", err)
	}
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(raw, later, later); err != nil {
		t.Fatal(err)
	}
	touched, err := Run(ctx, Options{BuildPath: build})
	if err != nil || touched.Started.Equal(again.Started) {
		t.Errorf("an image that was touched was not checked again: %v", err)
	}
}

func TestSelectionIsNotRecorded(t *testing.T) {
	_, build := makeImage(t)
	suite, err := Run(context.Background(), Options{BuildPath: build, Only: []int{18, 1, 18}})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range suite.Checks {
		ids = append(ids, c.ID)
	}
	if got, want := fmt.Sprint(ids), "[0-readable 1-empty-directories 18-debsums]"; got != want {
		t.Errorf("ran %s, want %s", got, want)
	}
	if _, err := os.Stat(manifest.Base(build) + ".report.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a selection was recorded: %v", err)
	}
}

// What is not the image of the Build document is refused; nothing is recorded.
func TestRefuses(t *testing.T) {
	for _, row := range []struct {
		summary string
		only    []int
		spoil   func(t *testing.T, raw, build string) error
		want    string
	}{
		{"truncated", nil, func(t *testing.T, raw, build string) error { return os.Truncate(raw, imageSize/2) }, "it was truncated or altered; build it again"},
		{"altered in one byte", nil, func(t *testing.T, raw, build string) error { return flip(raw, rootStart+5*mib, 4) }, "it was altered; build it again"},
		{"no image", nil, func(t *testing.T, raw, build string) error { return os.Remove(raw) }, "cannot be read"},
		{"no document", nil, func(t *testing.T, raw, build string) error { return os.Remove(build) }, "no Build document at"},
		{"another schema", nil, func(t *testing.T, raw, build string) error {
			b, err := os.ReadFile(build)
			return errors.Join(err, os.WriteFile(build, bytes.Replace(b, []byte("v1alpha1"), []byte("v2"), 1), 0o644))
		}, `schema "cloud.debian.org/v2", where Build of "cloud.debian.org/v1alpha1" is needed`},
		{"no JSON", nil, func(t *testing.T, raw, build string) error { return os.WriteFile(build, []byte("PK"), 0o644) }, "is not a Build document"},
		{"an unknown check", []int{99}, func(t *testing.T, raw, build string) error { return nil }, "there is no check 99 of the file system"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			raw, build := makeImage(t)
			if err := row.spoil(t, raw, build); err != nil {
				t.Fatal(err)
			}
			_, err := Run(context.Background(), Options{BuildPath: build, Only: row.only})
			if fault.KindOf(err) != fault.Input || !strings.Contains(fmt.Sprint(err), row.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want bad input: %s", err, row.want)
			}
			if _, err := os.Stat(manifest.Base(build) + ".report.json"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something was recorded: %v", err)
			}
		})
	}
}

// An image that is what the build wrote, and cannot be read, fails check 0 with one sentence and skips the others.
func TestUnreadable(t *testing.T) {
	for _, row := range []struct {
		summary string
		spoil   func(raw string) error
		want    string
	}{
		{"no partition table", func(raw string) error { return overwrite(raw, 0, imageSize, 0) }, "the image has no partition table of type GPT that can be read"},
		{"no root partition", func(raw string) error { return retype(raw) }, "no partition has type 4f68bce3-e8cd-4db1-96e7-fbcaf984b709"},
		{"zeros for a root file system", func(raw string) error { return overwrite(raw, rootStart, 4096, 0) }, "root file system, partition 1: the file system is damaged: the superblock begins with"},
		{"a damaged superblock", func(raw string) error { return flip(raw, rootStart+1024+0x18, 4) }, "the superblock's checksum does not match"},
		{"no FAT in the ESP", func(raw string) error { return overwrite(raw, espStart, 64*512, 0xff) }, "EFI system partition, partition 15:"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			raw, _ := makeImage(t)
			if err := row.spoil(raw); err != nil {
				t.Fatal(err)
			}
			suite, err := Run(context.Background(), Options{BuildPath: describe(t, raw)})
			if err != nil {
				t.Fatal(err)
			}
			failed := suite.Failures()
			if len(failed) != 1 || failed[0].ID != "0-readable" || !strings.Contains(failed[0].Evidence, row.want) {
				t.Errorf("got %+v, want %q", failed, row.want)
			}
		})
	}
}

func flip(path string, at int64, bits byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{b[0] ^ bits}, at)
	return err
}

func overwrite(path string, at, size int64, with byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(bytes.Repeat([]byte{with}, int(size)), at)
	return err
}

// retype makes an ordinary Linux partition of the root partition.
func retype(raw string) error {
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	table, err := gpt.Read(file.New(f, false), 512, 512)
	if err != nil {
		return err
	}
	for _, p := range table.Partitions {
		if p.Index == 1 {
			p.Type = gpt.LinuxFilesystem
		}
	}
	return table.Write(f, imageSize)
}

// Whatever bits flip in the tables and the metadata, each check ends with a result.
func TestBitFlips(t *testing.T) {
	raw, build := makeImage(t)
	document, err := manifest.ReadBuild(build)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	places := []struct{ at, size int64 }{{0, 34 * 512}, {espStart, 64}, {espStart, 64 * 512}, {espStart + 64*512, 600 * 512}, {rootStart, 300 << 10}}
	noticed, flips := 0, 100
	if n, err := strconv.Atoi(os.Getenv("DEBCLOUD_TEST_FLIPS")); err == nil {
		flips = n
	}
	for n := range flips {
		p := places[n%len(places)]
		at := p.at + random.Int64N(p.size)
		bits := byte(1 << random.IntN(8))
		if err := flip(raw, at, bits); err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		suite, err := runChecks(context.Background(), raw, document, catalogue)
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if !suite.Passed() {
			noticed++
		}
		if d := time.Since(started); d > 10*time.Second {
			t.Errorf("byte %d: took %s", at, d)
		}
		if err := flip(raw, at, bits); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d flips were noticed", noticed, flips)
}

func TestStopsWhenAsked(t *testing.T) {
	_, build := makeImage(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, Options{BuildPath: build}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
