package disk

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

func TestWriteTable(t *testing.T) {
	const size = 3 << 30
	layout, err := layoutOf(Spec{Size: size, Arch: "amd64", Seed: "trixie genericcloud amd64 20250814-2204"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := writeTable(f, size, layout); err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, SectorSize, SectorSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Verify(f, size); err != nil {
		t.Error(err)
	}
	if got := strings.ToLower(table.GUID); got != layout.DiskGUID {
		t.Errorf("disk GUID = %s, want %s", got, layout.DiskGUID)
	}
	wants := map[int]struct {
		name, kind  string
		start, last uint64
	}{
		14: {"bios", "21686148-6449-6e6f-744e-656564454649", 2048, 8191},
		15: {"esp", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", 8192, 262143},
		1:  {"root", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", 262144, 6289407},
	}
	for _, p := range table.Partitions {
		w, wanted := wants[p.Index]
		delete(wants, p.Index)
		if !wanted || p.Name != w.name || strings.ToLower(string(p.Type)) != w.kind || p.Start != w.start || p.End != w.last {
			t.Errorf("partition %d is %q, %s, sectors %d to %d, want %+v", p.Index, p.Name, p.Type, p.Start, p.End, w)
		}
		if part := layout.of(p.Name); part == nil || strings.ToLower(p.GUID) != part.GUID {
			t.Errorf("partition %q has PARTUUID %s, the layout says %+v", p.Name, p.GUID, part)
		}
	}
	if len(wants) > 0 {
		t.Errorf("missing in the table: %v", wants)
	}
	mbr := make([]byte, 512)
	if _, err := f.ReadAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	if mbr[450] != 0xee || binary.LittleEndian.Uint32(mbr[458:]) != size/512-1 || mbr[510] != 0x55 || mbr[511] != 0xaa {
		t.Errorf("the protective MBR is % x", mbr[440:])
	}
}

func TestIdentifiers(t *testing.T) {
	of := func(seed string) *Layout {
		l, err := layoutOf(Spec{Size: 3 << 30, Arch: "amd64", Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	// Golden: an identifier that changes without need makes every image differ from its rebuild.
	l := of("a")
	if got, want := l.DiskGUID, "3e3358b5-5efb-5011-b6fa-d69e77523c90"; got != want {
		t.Errorf("disk GUID of seed %q = %s, want %s", "a", got, want)
	}
	seen := map[string]string{}
	for _, seed := range []string{"a", "b"} {
		l := of(seed)
		ids := map[string]string{"disk": l.DiskGUID}
		for _, p := range l.Partitions {
			ids["partition "+p.Label] = p.GUID
			if p.FSUUID != "" {
				ids["file system "+p.Label] = p.FSUUID
			}
		}
		for thing, id := range ids {
			if other, twice := seen[id]; twice {
				t.Errorf("%s of seed %q has the identifier of %s: %s", thing, seed, other, id)
			}
			seen[id] = thing + " of seed " + seed
		}
	}
}

// Every layout that is declared must be one: in rising order, without overlap, ending in the root.
func TestLayoutsAreDisjoint(t *testing.T) {
	for arch, slots := range layouts {
		end := int64(2048)
		for i, p := range slots {
			last := i == len(slots)-1
			if p.start < end || last != (p.role == roleRoot) || last != (p.sectors == 0) {
				t.Errorf("%s: partition %q begins at sector %d, the one before it ends at %d", arch, p.role, p.start, end)
			}
			end = p.start + p.sectors
		}
	}
}
