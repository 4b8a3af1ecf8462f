package azure

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// envAzurite names a node_modules directory with Azurite, Microsoft's emulator of the storage services.
const envAzurite = "DEBCLOUD_TEST_AZURITE"

// TestAzurite writes an image's pages and footer to a page blob that no one here wrote, and has qemu-img read it as a VHD.
func TestAzurite(t *testing.T) {
	modules := os.Getenv(envAzurite)
	if modules == "" {
		t.Skipf("%s names no node_modules with Azurite: make test installs it", envAzurite)
	}
	build := publishtest.Build(t, publishtest.Options{Vendor: "azure", Size: 64 << 20})
	img := testImage(t, publishtest.Options{Size: 64 << 20})
	size := vhdSize(img.Size())
	address := startAzurite(t, modules, size+footerSize)
	p, err := New(newFake(t).target, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := openJournal(t).Lock(t.Context(), journal.Key{Target: "azurite", Digest: img.Digest.String(), Image: img.Name()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Unlock()
	w := &work{session: &session{Publisher: p}, entry: e, img: img}
	pages, err := pageblob.NewClientWithNoCredential(address, nil)
	if err != nil {
		t.Fatal(err)
	}
	fillAfterACut(t, w, address)
	response, err := pages.DownloadStream(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	vhd := filepath.Join(t.TempDir(), "back.vhd")
	f, err := os.Create(vhd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := io.Copy(f, response.Body); err != nil || n != size+footerSize {
		t.Fatalf("%d bytes came back: %v", n, err)
	}
	qemu(t, "compare", "-f", "raw", "-F", "vpc", strings.TrimSuffix(build, ".build.json")+".raw", vhd)
	demandNoZeroPages(t, pages)
	// What Azurite refuses, the fake has to refuse: writes that are not whole pages, or not what was sent.
	if _, err := pages.UploadPages(t.Context(), nopClose{bytes.NewReader(make([]byte, 100))}, blob.HTTPRange{Count: 100}, nil); err == nil {
		t.Error("Azurite took a page of 100 bytes")
	}
	_, err = pages.UploadPages(t.Context(), nopClose{bytes.NewReader(make([]byte, 512))}, blob.HTTPRange{Count: 512},
		&pageblob.UploadPagesOptions{TransactionalValidation: blob.TransferValidationTypeCRC64(1)})
	if !bloberror.HasCode(err, bloberror.CRC64Mismatch) {
		t.Errorf("a page with another's sum: %v", err)
	}
}

// fillAfterACut fills a page blob in two runs: in the first one the line is cut before the footer, and after it comes what is not of the image.
func fillAfterACut(t *testing.T, w *work, address string) {
	t.Helper()
	run := func(transport http.RoundTripper) error {
		w.clientOptions.Transport = &http.Client{Transport: transport}
		w.clientOptions.Retry.MaxRetries = -1
		pages, err := w.pageBlob(address)
		if err != nil {
			t.Fatal(err)
		}
		f := &filling{of: "the blob", pages: pages}
		if f.there, err = written(t.Context(), pages); err != nil {
			t.Fatal(err)
		}
		_, err = journal.Step(t.Context(), w.entry, stepPages, func(ctx context.Context, _ bool) (string, error) { return f.of, w.fill(ctx, f) })
		return err
	}
	var puts atomic.Int64
	if err := run(counted{&puts, 4}); err == nil {
		t.Fatal("it was not cut")
	}
	w.clientOptions.Transport = nil
	pages, err := w.pageBlob(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.putPages(t.Context(), pages, 60<<20, bytes.Repeat([]byte("x"), 1024)); err != nil {
		t.Fatal(err)
	}
	puts.Store(0)
	if err := run(counted{&puts, 1000}); err != nil {
		t.Fatal(err)
	}
	// 4 MiB of text, 8 of noise, the last sector: four blocks, which are there. What is left are the stray pages, which are cleared, and the footer.
	if n := puts.Load(); n != 2 {
		t.Errorf("the second run wrote %d times", n)
	}
}

// counted lets some writes through, and no more.
type counted struct {
	puts *atomic.Int64
	most int64
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && c.puts.Add(1) > c.most {
		return nil, errors.New("the line is cut")
	}
	return http.DefaultTransport.RoundTrip(r)
}

type nopClose struct{ io.ReadSeeker }

func (nopClose) Close() error { return nil }

// demandNoZeroPages lists the ranges that were written: no more than the data and what lies with it in a block.
func demandNoZeroPages(t *testing.T, pages *pageblob.Client) {
	t.Helper()
	var written int64
	for pager := pages.NewGetPageRangesPager(nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.PageRange {
			written += *r.End - *r.Start + 1
		}
	}
	if most := int64(64<<20/16 + 64<<20/8 + 3*raw.Cluster); written > most {
		t.Errorf("%d bytes were written of an image that has %d of data", written, most)
	}
}

// startAzurite returns the address, signed, of an empty page blob of size bytes.
func startAzurite(t *testing.T, modules string, size int64) string {
	t.Helper()
	address, err := publishtest.Serve(t, func(port string) *exec.Cmd {
		c := exec.Command(filepath.Join(modules, ".bin", "azurite-blob"), "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent",
			"--blobHost", "127.0.0.1", "--blobPort", port)
		c.Dir = t.TempDir()
		return c
	})
	if err != nil {
		t.Fatal(err)
	}
	account := "http://" + address + "/devstoreaccount1"
	return makeBlob(t, account, size)
}

// developmentKey is the well-known one of the emulator's only account.
var developmentKey, _ = base64.StdEncoding.DecodeString("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")

func makeBlob(t *testing.T, account string, size int64) string {
	t.Helper()
	credential, err := container.NewSharedKeyCredential("devstoreaccount1", base64.StdEncoding.EncodeToString(developmentKey))
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(account+"/disks", credential, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	b := c.NewPageBlobClient("disk")
	if _, err := b.Create(context.WithoutCancel(t.Context()), size, nil); err != nil {
		t.Fatal(err)
	}
	address, err := b.GetSASURL(sas.BlobPermissions{Read: true, Write: true}, time.Now().Add(time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	return address
}
