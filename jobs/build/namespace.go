package build

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespace calls work in a goroutine whose thread has a mount namespace of its own. What is mounted there is seen by
// work, as long as it stays in this goroutine, and by the processes that it starts, and is gone when work returns or
// this process dies, however it dies. The thread ends with work.
func inNamespace(work func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the runtime then ends the thread and the namespace with it
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			done <- fmt.Errorf("no mount namespace: %w", err)
			return
		}
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			done <- fmt.Errorf("mounts cannot be made private: %w", err)
			return
		}
		done <- work()
	}()
	return <-done
}
