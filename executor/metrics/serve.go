package metrics

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Serve answers scrapes of /metrics at an address until ctx ends. It takes the address before it calls listening (nil:
// nobody), and returns nil when ctx has ended.
func (r *Recorder) Serve(ctx context.Context, address string, listening func(net.Addr)) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fault.WithHint(fault.Outsidef("metrics: %w", err), "metrics.address in the settings says where; empty, they are not served")
	}
	if listening != nil {
		listening(l.Addr())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", r)
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
