package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/generator"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/prune"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/memory"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// timeTravel is a cloud in which a day passes as the test says.
type timeTravel struct {
	t      *testing.T
	now    time.Time
	place  *memory.Publisher
	policy holding.Policy
	before map[string]holding.Item
	used   string // ID of an image that a VM runs of
}

// TestFourHundredDays publishes a daily a day and a release every 60 days, prunes every night with the matrix' own policy, and looks
// at what is there then. Every tenth daily never becomes public, a VM runs of one, and one is withdrawn by hand, after which none comes for
// 40 days.
func TestFourHundredDays(t *testing.T) {
	config, err := generator.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(t.Context(), filepath.Join(fastDir(t), "journal.db"), journal.Wait)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	w := &timeTravel{t: t, now: time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC), policy: config.Retention(), before: map[string]holding.Item{}}
	cloud := memory.NewCloud()
	cloud.Now = func() time.Time { return w.now }
	w.place = memory.New(cloud, target.Target{Name: "memory", Provider: "memory", Regions: []string{"north", "south"}}, j, nil)
	for n := range 400 {
		switch {
		case n%10 == 5:
			w.publish(image.Daily, publish.Private, byte(n))
		case n <= 300 || n > 340:
			w.publish(image.Daily, publish.Public, byte(n))
		}
		if n%60 == 0 {
			w.publish(image.Published, publish.Public, byte(n))
		}
		switch n {
		case 100:
			w.cutUpload()
		case 200:
			w.used = w.newest("north", image.Daily)[0].ID
			cloud.Refer(w.used, "a running VM")
		case 300:
			w.withdraw()
		}
		w.prune()
		w.now = w.now.AddDate(0, 0, 1)
	}
	w.demand()
}

func (w *timeTravel) publish(kind image.UploadType, stage publish.Stage, seed byte) {
	w.t.Helper()
	img := publishtest.Image(w.t, publishtest.Options{Vendor: "ec2", Version: w.now.Format("20060102") + "-1", Size: 128 << 10, Seed: seed, Type: kind})
	if _, err := w.place.Publish(w.t.Context(), img, stage); err != nil {
		w.t.Fatal(err)
	}
	img.Close()
}

// newest lists what users see of a type in a region, the newest first, as many as the policy keeps.
func (w *timeTravel) newest(region string, kind image.UploadType) []holding.Item {
	w.t.Helper()
	seen := slices.DeleteFunc(w.items(), func(it holding.Item) bool {
		return it.Kind != holding.Image || it.Region != region || it.UploadType != kind || !it.Public || it.State == holding.Hidden
	})
	slices.SortFunc(seen, func(a, b holding.Item) int { return b.Created.Compare(a.Created) })
	return seen[:min(len(seen), w.policy.Types[kind].Keep)]
}

// withdraw hides the newest dailies by hand.
func (w *timeTravel) withdraw() {
	for _, region := range []string{"north", "south"} {
		it := w.newest(region, image.Daily)[0]
		if err := w.place.Hide(w.t.Context(), it); err != nil {
			w.t.Fatal(err)
		}
		delete(w.before, it.ID) // it skipped a state
	}
}

// cutUpload leaves half a snapshot.
func (w *timeTravel) cutUpload() {
	img := publishtest.Image(w.t, publishtest.Options{Vendor: "azure", Version: w.now.Format("20060102") + "-1"})
	ctx, cancel := context.WithCancel(w.t.Context())
	w.place.BeforeBlock = cancel
	if _, err := w.place.Publish(ctx, img, publish.Private); err == nil {
		w.t.Error("the upload was not cut")
	}
	w.place.BeforeBlock = nil
	if !slices.ContainsFunc(w.items(), func(it holding.Item) bool { return it.Kind == holding.Snapshot && it.Name == img.Name() }) {
		w.t.Error("no half snapshot is there")
	}
}

func (w *timeTravel) items() []holding.Item {
	w.t.Helper()
	items, err := w.place.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return items
}

// prune retires, and holds every change against what was there a day before.
func (w *timeTravel) prune() {
	w.t.Helper()
	var stay []holding.Item
	for _, region := range []string{"north", "south"} {
		for kind := range w.policy.Types {
			stay = append(stay, w.newest(region, kind)...)
		}
	}
	_, err := prune.Run(w.t.Context(), w.place, prune.Options{Policy: w.policy, Now: func() time.Time { return w.now }, Plan: func([]prune.Step) error { return nil }})
	if err != nil {
		w.t.Fatalf("%s: %v", w.now.Format(time.DateOnly), err)
	}
	after := map[string]holding.Item{}
	order := map[holding.State]int{holding.Current: 0, holding.Deprecated: 1, holding.Hidden: 2}
	for _, it := range w.items() {
		after[it.ID] = it
		if old, ok := w.before[it.ID]; ok && (order[it.State] < order[old.State] || order[it.State] > order[old.State]+1) {
			w.t.Errorf("%s: %s went from %s to %s", w.now.Format(time.DateOnly), it.Name, old.State, it.State)
		}
	}
	for id, old := range w.before {
		if _, stays := after[id]; !stays && old.Kind == holding.Image && (old.State != holding.Hidden || w.now.Sub(old.Since) < w.policy.Types[old.UploadType].DeleteAfter) {
			w.t.Errorf("%s: %s was deleted while %s since %s", w.now.Format(time.DateOnly), old.Name, old.State, old.Since)
		}
	}
	for _, it := range stay {
		if after[it.ID].State != it.State || !after[it.ID].Public {
			w.t.Errorf("%s: %s, one of the newest that users see, was %s and is %s", w.now.Format(time.DateOnly), it.Name, it.State, after[it.ID].State)
		}
	}
	if it := after[w.used]; w.used != "" && !it.Public {
		w.t.Errorf("%s: %s is in use, and %s", w.now.Format(time.DateOnly), w.used, it.State)
	}
	w.before = after
}

// demand looks at what 400 days left.
func (w *timeTravel) demand() {
	count := map[string]int{}
	referred := map[string]bool{}
	for _, it := range w.items() {
		key := it.Region + " " + string(it.UploadType) + " " + string(it.Kind) + " " + string(it.State)
		switch {
		case it.ID == w.used:
			key = "used"
		case it.Kind == holding.Image && !it.Public && it.State != holding.Hidden:
			key = it.Region + " private"
		}
		count[key]++
		for _, id := range it.RefersTo {
			referred[id] = true
		}
	}
	for _, it := range w.items() {
		if it.Kind == holding.Snapshot && !referred[it.ID] {
			w.t.Errorf("snapshot %s is an orphan", it.Name)
		}
	}
	daily, release := w.policy.Types[image.Daily], w.policy.Types[image.Published]
	for _, region := range []string{"north", "south"} {
		dailies := count[region+" daily image current"] + count[region+" daily image deprecated"]
		hidden := count[region+" daily image hidden"]
		if count[region+" daily image current"] != 1 || dailies != max(daily.Keep, int(daily.HideAfter/(24*time.Hour))) && dailies != daily.Keep+1 || hidden == 0 || hidden > int(daily.DeleteAfter/(24*time.Hour)) {
			w.t.Errorf("%s has %d current dailies, %d shown, %d hidden", region, count[region+" daily image current"], dailies, hidden)
		}
		releases := count[region+" release image current"] + count[region+" release image deprecated"]
		if count[region+" release image current"] != 1 || releases < release.Keep || releases+count[region+" release image hidden"] > 7 {
			w.t.Errorf("%s has %d releases shown: %v", region, releases, count)
		}
		if n := count[region+" private"]; n == 0 || n > 1+int(daily.HideAfter/(10*24*time.Hour)) {
			w.t.Errorf("%s has %d private dailies: %v", region, n, count)
		}
	}
	if n := count["north daily snapshot current"]; n > daily.Keep+int((daily.HideAfter+daily.DeleteAfter)/(24*time.Hour)) {
		w.t.Errorf("%d snapshots of dailies are left: %v", n, count)
	}
	w.t.Log(count)
}

// fastDir is a directory in memory, where there is such a place: a journal is synced at every step.
func fastDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "debcloud-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
