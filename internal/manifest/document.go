// Package manifest holds the documents that the steps hand to each other through files.
//
// Build, Upload and List are the published kinds of the Python tool debian-cloud-images and stay compatible with it;
// Report and Index are ours. Every reader refuses another schema, so that a step never works on what it does not know.
package manifest

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/uuid"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// APIVersion is the schema of every document but List, which is "v1".
const APIVersion = "cloud.debian.org/v1alpha1"

// Keys of labels and annotations. Those up to LabelAWSRegion are upstream's; the rest are additions, never renames.
const (
	LabelArch        = "debian.org/arch"
	LabelDist        = "debian.org/dist"
	LabelRelease     = "debian.org/release"
	LabelVendor      = "cloud.debian.org/vendor"
	LabelVersion     = "cloud.debian.org/version"
	LabelUploadType  = "upload.cloud.debian.org/type"
	LabelImageFormat = "upload.cloud.debian.org/image-format"
	LabelProvider    = "upload.cloud.debian.org/provider" // ProviderDomain
	LabelAWSRegion   = "aws.amazon.com/region"
	LabelRegion      = "upload.cloud.debian.org/region" // of any provider that has regions

	AnnotationDigest      = "cloud.debian.org/digest"        // sha512: and unpadded base64
	AnnotationDigestHex   = "cloud.debian.org/digest-hex"    // the same digest as sha512sum prints it
	AnnotationSize        = "cloud.debian.org/size"          // bytes, decimal
	AnnotationReport      = "cloud.debian.org/report"        // the report's file, relative to the document
	AnnotationFingerprint = "cloud.debian.org/fingerprint"   // sha256-blocks: and hexadecimal raw.Fingerprint of the raw image
	AnnotationJob         = "cloud.debian.org/job-url"       // the CI job that made it
	AnnotationCommit      = "cloud.debian.org/source-commit" // the commit of this project that it was made from
	AnnotationDryRun      = "cloud.debian.org/dry-run"       // "true": a dry run wrote it, about nothing that exists
	AnnotationStage       = "upload.cloud.debian.org/stage"  // "private": an Upload that the public may not use yet; others have none
)

// Header is what every document begins with.
type Header struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
}

// Metadata identifies what a document is about.
type Metadata struct {
	Annotations map[string]string `json:"annotations,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	UID         string            `json:"uid,omitempty"`
}

// NewUID derives a document's UID from what it is about, so that the same inputs give the same document
// (RFC 9562, version 5).
func NewUID(parts ...string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(APIVersion+"/"+strings.Join(parts, "/"))).String()
}

// Digest is a SHA-512 digest.
type Digest [sha512.Size]byte

// DigestOf reads r to its end.
func DigestOf(r io.Reader) (Digest, error) {
	h := sha512.New()
	if _, err := io.Copy(h, r); err != nil {
		return Digest{}, err
	}
	return Digest(h.Sum(nil)), nil
}

// String returns upstream's form, "sha512:" and base64 without padding.
func (d Digest) String() string { return "sha512:" + base64.RawStdEncoding.EncodeToString(d[:]) }

// Hex returns the digest as sha512sum prints it.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// ParseDigest reads upstream's form; padding, which other tools add, is accepted.
func ParseDigest(text string) (Digest, error) {
	encoded, ok := strings.CutPrefix(text, "sha512:")
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if !ok || err != nil || len(raw) != sha512.Size {
		return Digest{}, fault.Inputf("digest %q is not sha512: and 64 bytes of base64", text)
	}
	return Digest(raw), nil
}

// SetDigest writes d in both forms.
func (m *Metadata) SetDigest(d Digest) {
	m.annotate(AnnotationDigest, d.String())
	m.annotate(AnnotationDigestHex, d.Hex())
}

// DryRun tells whether a dry run wrote the document. No such document may lead to a publication.
func (m Metadata) DryRun() bool { return m.Annotations[AnnotationDryRun] != "" }

// Private tells whether an Upload was made at stage private. One without a word of it is public, as upstream's are.
func (m Metadata) Private() bool { return m.Annotations[AnnotationStage] == stagePrivate }

// SetPrivate has an Upload say that it was made at stage private.
func (m *Metadata) SetPrivate() { m.annotate(AnnotationStage, stagePrivate) }

const stagePrivate = "private"

func (m *Metadata) annotate(key, value string) {
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[key] = value
}

// Digest returns the annotated digest.
func (m Metadata) Digest() (Digest, error) { return ParseDigest(m.Annotations[AnnotationDigest]) }

// Write puts document into path as indented JSON with a final newline, by rename, so that a reader never sees half of it.
func Write(path string, document any) error {
	text, err := Marshal(document)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, text, 0o644)
}

// Marshal returns document as upstream writes it: four spaces, no HTML escapes.
func Marshal(document any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ")
	err := e.Encode(document)
	return b.Bytes(), err
}

// MarshalSorted is Marshal with the keys of every object sorted, ours among upstream's, as published manifests have them.
func MarshalSorted(document any) ([]byte, error) {
	text, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // a float64 would round sizes
	var sorted any
	if err := d.Decode(&sorted); err != nil {
		return nil, err
	}
	return Marshal(sorted)
}

// read decodes the document of the given kind from path into document, whose header is header.
func read(path, kind string, document any, header *Header) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return fault.Inputf("no %s document at %s", kind, path)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, document); err != nil {
		return fault.Inputf("%s is not a %s document: %w", path, kind, err)
	}
	if header.Kind != kind || header.APIVersion != APIVersion {
		return fault.Inputf("%s is of kind %q, schema %q, where %s of %q is needed", path, header.Kind, header.APIVersion, kind, APIVersion)
	}
	return nil
}
