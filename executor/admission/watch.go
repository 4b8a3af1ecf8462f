package admission

import (
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// watch sends when the ledger in dir was replaced. Where the kernel watches no more files for us, it never does: who
// waits looks now and then anyway.
func watch(dir string) (changes <-chan struct{}, stop func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, func() {}
	}
	if err := w.Add(dir); err != nil {
		_ = w.Close()
		return nil, func() {}
	}
	c := make(chan struct{}, 1)
	go func() {
		for {
			select {
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				if filepath.Base(e.Name) != ledgerFile {
					continue
				}
				select {
				case c <- struct{}{}:
				default: // it has not looked yet, and will see this too
				}
			case _, ok := <-w.Errors:
				if !ok {
					return
				}
			}
		}
	}()
	return c, func() { _ = w.Close() }
}
