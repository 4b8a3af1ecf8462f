//go:build cgo && libvirt_dlopen

package vm

// The Go package libvirt turns libvirt's printing of errors off when the program starts, and so opens the library with its
// fifty others: 20 ms and 25 MiB for every command, the ones that start no VM too. The linker puts the function below in
// the place of the one that does that. It keeps what is asked for until the first connection.

/*
#cgo LDFLAGS: -Wl,--wrap=virSetErrorFuncWrapper

static void *kept_data, *kept_func;

void __wrap_virSetErrorFuncWrapper(void *data, void *func) { kept_data = data; kept_func = func; }

// Weak, because cgo links this file alone first, where it does not exist.
extern void __real_virSetErrorFuncWrapper(void *data, void *func) __attribute__((weak));

static void open_library(void) { __real_virSetErrorFuncWrapper(kept_data, kept_func); }
*/
import "C"

import "sync"

// openLibrary opens libvirt's library and turns its printing of errors off.
var openLibrary = sync.OnceFunc(func() { C.open_library() })
