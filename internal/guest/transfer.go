package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Upload creates or replaces a file of the guest over SFTP, by rename once it is complete. Mode is as in chmod. It is for
// files of any size; WriteFile needs no SFTP.
func (s *SSH) Upload(ctx context.Context, name string, mode uint32, content io.Reader) error {
	err := s.overSFTP(ctx, func(c *sftp.Client) error {
		partial := path.Join(path.Dir(name), "."+path.Base(name)+".partial")
		f, err := c.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
		if err != nil {
			return err
		}
		_, err = f.ReadFromWithConcurrency(content, transfers)
		if err = errors.Join(err, f.Chmod(os.FileMode(mode&0o7777)), f.Close()); err == nil {
			err = c.PosixRename(partial, name)
		}
		if err != nil {
			_ = c.Remove(partial)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("upload %s into the guest: %w", name, err)
	}
	return nil
}

// Download writes a file of the guest to w, over SFTP.
func (s *SSH) Download(ctx context.Context, name string, w io.Writer) error {
	err := s.overSFTP(ctx, func(c *sftp.Client) error {
		f, err := c.Open(name)
		if err != nil {
			return err
		}
		_, err = f.WriteTo(w)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return fmt.Errorf("download %s from the guest: %w", name, err)
	}
	return nil
}

// transfers is how many packets of SFTP are under way at once.
const transfers = 32

// overSFTP opens a session of SFTP for one use, and closes it when ctx ends.
func (s *SSH) overSFTP(ctx context.Context, use func(*sftp.Client) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	session, err := s.newSession(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	done := make(chan error, 1)
	go func() { done <- useSFTP(session, use) }()
	select {
	case err = <-done:
		return err
	case <-ctx.Done():
		_ = session.Close()
		select {
		case <-done:
		case <-time.After(killWait): // the guest does not even close the session
		}
		return context.Cause(ctx)
	}
}

func useSFTP(session *ssh.Session, use func(*sftp.Client) error) error {
	w, err := session.StdinPipe()
	if err != nil {
		return err
	}
	r, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	if err := session.RequestSubsystem("sftp"); err != nil {
		return fmt.Errorf("no SFTP: %w", err)
	}
	c, err := sftp.NewClientPipe(r, w)
	if err != nil {
		return err
	}
	defer c.Close()
	return use(c)
}

// Forward makes a UNIX socket in the guest, for root there, with its directory if that is missing; whatever stood in its
// place is replaced. Each connection to it is led to one that dial opens here. It ends with stop or with the connection to the
// guest, and the connections through it end too.
func (s *SSH) Forward(ctx context.Context, socket string, dial Dialer) (stop func() error, err error) {
	listener, err := await(ctx, func() (net.Listener, error) { return s.client.ListenUnix(socket) })
	if err != nil {
		return nil, fmt.Errorf("forward %s from the guest: %w", socket, err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		forward(ctx, listener, dial)
	}()
	return func() error {
		cancel()
		err := listener.Close()
		<-ended
		if errors.Is(err, io.EOF) {
			return nil // the whole connection has ended
		}
		return err
	}, nil
}

func forward(ctx context.Context, listener net.Listener, dial Dialer) {
	for {
		from, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			to, err := dial(ctx)
			if err != nil {
				return // the guest sees the connection closed
			}
			defer to.Close()
			defer context.AfterFunc(ctx, func() { _ = from.Close(); _ = to.Close() })()
			Join(from, to)
		}()
	}
}

// Join copies between two connections, each direction until its end, and returns when both are over.
func Join(a, b io.ReadWriteCloser) {
	done := make(chan struct{})
	go func() {
		pass(a, b)
		close(done)
	}()
	pass(b, a)
	<-done
}

// pass copies one direction and hands its end on. An error ends both.
func pass(to, from io.ReadWriteCloser) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err == nil && ok {
		err = half.CloseWrite()
	}
	if err != nil || !ok {
		_ = to.Close()
		_ = from.Close()
	}
}

// DialSocket connects to a UNIX socket of the guest.
func (s *SSH) DialSocket(ctx context.Context, socket string) (net.Conn, error) {
	conn, err := s.client.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to %s in the guest: %w", socket, err)
	}
	return conn, nil
}
