package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// startMoto runs moto, a double of AWS that others wrote, until the test ends.
func startMoto(t *testing.T) (endpoint string) {
	t.Helper()
	path, err := exec.LookPath("moto_server")
	if err != nil {
		t.Skip("moto_server is not installed here")
	}
	address, err := publishtest.Serve(t, func(port string) *exec.Cmd {
		c := exec.Command(path, "-H", "127.0.0.1", "-p", port)
		c.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
		return c
	})
	if err != nil {
		t.Skipf("moto_server does not run here: %v", err)
	}
	return "http://" + address
}

// forgotten are properties that moto does not keep, or gets wrong.
var forgotten = []string{"block size", "tags", "architecture", "root device", "root device type", "virtualization type", "ENA support", "boot mode", "SR-IOV support", "IMDS support", "volume type", "volume size", "delete on termination"}

// TestMoto has a double judge the calls that was not made for them. It does not know the calls of stage public.
func TestMoto(t *testing.T) {
	signIn(t)
	for _, row := range []struct {
		summary string
		img     func(t testing.TB) *publish.Image
	}{
		{"a small image", func(t testing.TB) *publish.Image {
			return publishtest.Image(t, publishtest.Options{Vendor: "ec2", Size: 5 << 20})
		}},
		{"the real one", publishtest.RealImage},
	} {
		t.Run(row.summary, func(t *testing.T) {
			img := row.img(t)
			s := settings{Account: testAccount, Regions: []string{"us-east-1", "eu-west-1"}, Endpoint: startMoto(t)}
			patience := patient
			patience.Poll, patience.PollMost, patience.visible = 10*time.Millisecond, time.Second, time.Minute
			p, err := open("moto", s, environment{}, newJournal(t), patience, numbers{http.DefaultTransport})
			if err != nil {
				t.Fatal(err)
			}
			p.lenient = forgotten
			first, err := p.Publish(t.Context(), img, publish.Private)
			if err != nil {
				t.Fatal(err)
			}
			again, err := p.Publish(t.Context(), img, publish.Private)
			if err != nil || again.Changed || len(again.Uploads) != 2 || again.Uploads[0].Data.Ref != first.Uploads[0].Data.Ref {
				t.Errorf("once more: %+v: %v", again, err)
			}
			snapshot, err := kept(t.Context(), p, img)
			if err != nil {
				t.Fatal(err)
			}
			f, err := img.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := compareSnapshot(t.Context(), p.login.in("us-east-1").ebs, snapshot, f, img.Size()); err != nil {
				t.Error(err)
			}
		})
	}
}

// numbers puts one thing right: moto sends the indices of blocks as texts.
type numbers struct{ http.RoundTripper }

var quotedIndex = regexp.MustCompile(`"BlockIndex": ?"(\d+)"`)

func (n numbers) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := n.RoundTripper.RoundTrip(r)
	if err != nil || r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blocks") {
		return response, err
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	body = quotedIndex.ReplaceAll(body, []byte(`"BlockIndex": $1`))
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	response.Header.Del("Content-Length")
	return response, err
}

// kept returns the snapshot that the journal tells of. moto makes another one for each image.
func kept(ctx context.Context, p *Publisher, img *publish.Image) (string, error) {
	e, err := p.journal.Lock(ctx, journal.Key{Target: p.target, Digest: img.Digest.String(), Image: img.Name()})
	if err != nil {
		return "", err
	}
	defer e.Unlock()
	return journal.Step(ctx, e, "snapshot", func(context.Context, bool) (string, error) { return "", errors.New("the journal knows no snapshot") })
}

// compareSnapshot reads a snapshot back and compares it with the image, bit for bit.
func compareSnapshot(ctx context.Context, c *ebs.Client, id string, image io.ReaderAt, size int64) error {
	blocks := map[int64]ebstypes.Block{}
	for pages := ebs.NewListSnapshotBlocksPaginator(c, &ebs.ListSnapshotBlocksInput{SnapshotId: &id}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, b := range page.Blocks {
			blocks[int64(deref(b.BlockIndex))] = b
		}
	}
	want := make([]byte, blockSize)
	for at := int64(0); at < size; at += blockSize {
		clear(want)
		if _, err := image.ReadAt(want[:min(blockSize, size-at)], at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		b, written := blocks[at/blockSize]
		have := make([]byte, blockSize)
		if written {
			out, err := c.GetSnapshotBlock(ctx, &ebs.GetSnapshotBlockInput{SnapshotId: &id, BlockIndex: b.BlockIndex, BlockToken: b.BlockToken})
			if err != nil {
				return err
			}
			have, err = io.ReadAll(out.BlockData)
			if err != nil {
				return err
			}
			if sum := sha256.Sum256(have); deref(out.Checksum) != base64.StdEncoding.EncodeToString(sum[:]) {
				return fmt.Errorf("the checksum of block %d is not that of its data", at/blockSize)
			}
		}
		if !bytes.Equal(have, want) {
			return fmt.Errorf("block %d of %s differs from the image", at/blockSize, id)
		}
	}
	return nil
}
