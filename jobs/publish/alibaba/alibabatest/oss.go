package alibabatest

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/crc"
)

// bucket is the account's bucket.
type bucket struct {
	objects map[string]*Object // by key
	uploads map[string]*Upload // by identifier
}

// Object is what lies in the bucket.
type Object struct {
	Key      string
	Data     []byte // nil where the cloud discards
	Size     int64
	Meta     map[string]string
	Modified time.Time
	crc      uint64
}

// Upload is an upload that was not completed.
type Upload struct {
	Key, ID   string
	Meta      map[string]string
	Initiated time.Time
	parts     map[int]*part
}

type part struct {
	data []byte
	size int64
	crc  uint64
	etag string
}

// smallest part but the last, bytes.
const minPart = 100 << 10

// Objects returns the keys of all objects, sorted.
func (c *Cloud) Objects() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.bucket.objects))
}

// Uploads returns the keys of all unfinished uploads, sorted.
func (c *Cloud) Uploads() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys []string
	for _, u := range c.bucket.uploads {
		keys = append(keys, u.Key)
	}
	slices.Sort(keys)
	return keys
}

// PutObject puts someone's object into the bucket.
func (c *Cloud) PutObject(key string, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bucket.objects[key] = &Object{Key: key, Data: data, Size: int64(len(data)), crc: crc.Sum(data), Modified: c.now()}
}

type xmlError struct {
	XMLName   xml.Name `xml:"Error"`
	Code      string
	Message   string
	RequestID string `xml:"RequestId"`
}

// store answers a request to OSS.
func (c *Cloud) store(w http.ResponseWriter, r *http.Request, body []byte, bucket, region string) {
	f := c.identifyStore(r, bucket, region)
	if f == nil {
		f = c.storeAction(w, r, body, bucket, region)
	}
	if f == nil {
		return
	}
	answer := xmlError{Code: f.Code, Message: f.Message, RequestID: "534B371674E88A4D8906008B"}
	if r.Method == http.MethodHead {
		text, _ := xml.Marshal(answer) // strings always encode
		w.Header().Set("x-oss-err", base64.StdEncoding.EncodeToString(text))
		w.WriteHeader(f.Status)
		return
	}
	writeXML(w, f.Status, answer)
}

func (c *Cloud) storeAction(w http.ResponseWriter, r *http.Request, body []byte, bucket, region string) *Failure {
	q, key := r.URL.Query(), strings.TrimPrefix(r.URL.Path, "/")
	has := func(name string) bool { _, is := q[name]; return is }
	name, do := "", func() *Failure { return refuse(405, "MethodNotAllowed", "%s %s", r.Method, r.URL) }
	switch {
	case key == "" && r.Method == http.MethodGet && has("uploads"):
		name, do = "ListMultipartUploads", func() *Failure { return c.listUploads(w, q) }
	case key == "" && r.Method == http.MethodGet && q.Get("list-type") == "2":
		name, do = "ListObjects", func() *Failure { return c.listObjects(w, q) }
	case r.Method == http.MethodHead:
		name, do = "GetObject", func() *Failure { return c.headObject(w, key) }
	case r.Method == http.MethodPost && has("uploads"):
		name, do = "PutObject", func() *Failure { return c.initiate(w, r, key) }
	case r.Method == http.MethodPut && has("uploadId"):
		name, do = "PutObject", func() *Failure { return c.putPart(w, q, key, body) }
	case r.Method == http.MethodGet && has("uploadId"):
		name, do = "ListParts", func() *Failure { return c.listParts(w, q, key) }
	case r.Method == http.MethodPost && has("uploadId"):
		name, do = "PutObject", func() *Failure { return c.complete(w, r, key, body) }
	case r.Method == http.MethodDelete && has("uploadId"):
		name, do = "AbortMultipartUpload", func() *Failure {
			if c.bucket.uploads[q.Get("uploadId")] == nil {
				return noUpload()
			}
			delete(c.bucket.uploads, q.Get("uploadId"))
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
	case r.Method == http.MethodDelete:
		name, do = "DeleteObject", func() *Failure {
			delete(c.bucket.objects, key)
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
	}
	if f := c.admit("oss:" + name + " " + r.Method + " " + key); f != nil {
		return f
	}
	if bucket != c.settings.Bucket {
		return refuse(404, "NoSuchBucket", "The specified bucket does not exist.")
	}
	if region != c.settings.BucketRegion {
		return refuse(403, "AccessDenied", "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to this endpoint.")
	}
	return do()
}

func noUpload() *Failure {
	return refuse(404, "NoSuchUpload", "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.")
}

func (c *Cloud) headObject(w http.ResponseWriter, key string) *Failure {
	o := c.bucket.objects[key]
	if o == nil {
		return refuse(404, "NoSuchKey", "The specified key does not exist.")
	}
	h := w.Header()
	h.Set("Content-Length", strconv.FormatInt(o.Size, 10))
	h.Set("x-oss-hash-crc64ecma", strconv.FormatUint(o.crc, 10))
	h.Set("Last-Modified", o.Modified.Format(http.TimeFormat))
	for k, v := range o.Meta {
		h.Set("x-oss-meta-"+k, v)
	}
	return nil
}

func (c *Cloud) initiate(w http.ResponseWriter, r *http.Request, key string) *Failure {
	if r.Header.Get("x-oss-forbid-overwrite") == "true" && c.bucket.objects[key] != nil {
		return refuse(409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten.")
	}
	u := &Upload{Key: key, ID: strings.ToUpper(c.id("upload")), Meta: map[string]string{}, Initiated: c.now(), parts: map[int]*part{}}
	for name := range r.Header {
		if k, is := strings.CutPrefix(strings.ToLower(name), "x-oss-meta-"); is {
			u.Meta[k] = r.Header.Get(name)
		}
	}
	c.bucket.uploads[u.ID] = u
	writeXML(w, 200, struct {
		XMLName     xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket, Key string
		UploadId    string
	}{Bucket: c.settings.Bucket, Key: key, UploadId: u.ID})
	return nil
}

func (c *Cloud) upload(id, key string) (*Upload, *Failure) {
	if u := c.bucket.uploads[id]; u != nil && u.Key == key {
		return u, nil
	}
	return nil, noUpload()
}

func (c *Cloud) putPart(w http.ResponseWriter, q url.Values, key string, body []byte) *Failure {
	if c.settings.DamageParts > 0 && len(body) > 0 {
		c.settings.DamageParts--
		body[len(body)/2] ^= 1
	}
	c.mu.Unlock() // parts come side by side
	sum := crc.Sum(body)
	c.mu.Lock()
	u, f := c.upload(q.Get("uploadId"), key)
	if f != nil {
		return f
	}
	number, err := strconv.Atoi(q.Get("partNumber"))
	if err != nil || number < 1 || number > 10000 {
		return refuse(400, "InvalidArgument", "part number %q", q.Get("partNumber"))
	}
	p := &part{size: int64(len(body)), crc: sum}
	if c.settings.Discard {
		p.etag = fmt.Sprintf(`"%X"`, p.crc)
	} else {
		p.data, p.etag = body, fmt.Sprintf(`"%X"`, md5.Sum(body))
	}
	u.parts[number] = p
	w.Header().Set("ETag", p.etag)
	w.Header().Set("x-oss-hash-crc64ecma", strconv.FormatUint(p.crc, 10))
	return nil
}

func (c *Cloud) listParts(w http.ResponseWriter, q url.Values, key string) *Failure {
	u, f := c.upload(q.Get("uploadId"), key)
	if f != nil {
		return f
	}
	type item struct {
		PartNumber    int
		ETag          string
		Size          int64
		HashCrc64ecma string
		LastModified  string
	}
	var list []item
	marker, _ := strconv.Atoi(q.Get("part-number-marker")) // none is 0
	most := 1000
	if text := q.Get("max-parts"); text != "" {
		most, _ = strconv.Atoi(text)
	}
	truncated, last := false, 0
	for _, n := range slices.Sorted(maps.Keys(u.parts)) {
		if n <= marker {
			continue
		}
		if len(list) == most {
			truncated = true
			break
		}
		p := u.parts[n]
		list, last = append(list, item{n, p.etag, p.size, strconv.FormatUint(p.crc, 10), "2026-08-14T01:00:00.000Z"}), n
	}
	writeXML(w, 200, struct {
		XMLName              xml.Name `xml:"ListPartsResult"`
		Bucket, Key          string
		UploadId             string
		NextPartNumberMarker int
		IsTruncated          bool
		Part                 []item
	}{Bucket: c.settings.Bucket, Key: key, UploadId: u.ID, NextPartNumberMarker: last, IsTruncated: truncated, Part: list})
	return nil
}

// complete makes an object of parts: all that are named, in rising order, with their ETags, none but the last too small.
func (c *Cloud) complete(w http.ResponseWriter, r *http.Request, key string, body []byte) *Failure {
	u, f := c.upload(r.URL.Query().Get("uploadId"), key)
	if f != nil {
		return f
	}
	if r.Header.Get("x-oss-forbid-overwrite") == "true" && c.bucket.objects[key] != nil {
		return refuse(409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten.")
	}
	var in struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &in); err != nil || len(in.Part) == 0 {
		return refuse(400, "MalformedXML", "%v", err)
	}
	var data bytes.Buffer
	size, last := int64(0), 0
	for n, one := range in.Part {
		p := u.parts[one.PartNumber]
		switch {
		case one.PartNumber <= last:
			return refuse(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
		case p == nil || p.etag != one.ETag:
			return refuse(400, "InvalidPart", "One or more of the specified parts could not be found or the specified entity tag might not have matched the part's entity tag.")
		case n < len(in.Part)-1 && p.size < minPart:
			return refuse(400, "EntityTooSmall", "Your proposed upload smaller than the minimum allowed size.")
		}
		last, size = one.PartNumber, size+p.size
		data.Write(p.data)
	}
	o := &Object{Key: key, Data: data.Bytes(), Size: size, Meta: u.Meta, Modified: c.now(), crc: c.sum(u, data.Bytes())}
	c.bucket.objects[key] = o
	delete(c.bucket.uploads, u.ID)
	w.Header().Set("x-oss-hash-crc64ecma", strconv.FormatUint(o.crc, 10))
	writeXML(w, 200, struct {
		XMLName     xml.Name `xml:"CompleteMultipartUploadResult"`
		Bucket, Key string
	}{Bucket: c.settings.Bucket, Key: url.QueryEscape(key)})
	return nil
}

// sum is the object's CRC. Where the parts were discarded it is that of their joined contents, by their CRCs.
func (c *Cloud) sum(u *Upload, data []byte) uint64 {
	if c.settings.Damage {
		return 1
	}
	if !c.settings.Discard {
		return crc.Sum(data)
	}
	sum := uint64(0)
	for _, n := range slices.Sorted(maps.Keys(u.parts)) {
		sum = crc.Combine(sum, u.parts[n].crc, u.parts[n].size)
	}
	return sum
}

func (c *Cloud) listUploads(w http.ResponseWriter, q url.Values) *Failure {
	type item struct {
		Key       string
		UploadId  string
		Initiated string
	}
	var list []item
	for _, id := range slices.Sorted(maps.Keys(c.bucket.uploads)) {
		if u := c.bucket.uploads[id]; strings.HasPrefix(u.Key, q.Get("prefix")) {
			list = append(list, item{url.QueryEscape(u.Key), id, u.Initiated.Format("2006-01-02T15:04:05.000Z")})
		}
	}
	writeXML(w, 200, struct {
		XMLName      xml.Name `xml:"ListMultipartUploadsResult"`
		EncodingType string
		IsTruncated  bool
		Upload       []item
	}{EncodingType: "url", Upload: list})
	return nil
}

func (c *Cloud) listObjects(w http.ResponseWriter, q url.Values) *Failure {
	type item struct {
		Key          string
		Size         int64
		LastModified string
	}
	var list []item
	for _, key := range slices.Sorted(maps.Keys(c.bucket.objects)) {
		if strings.HasPrefix(key, q.Get("prefix")) {
			list = append(list, item{url.QueryEscape(key), c.bucket.objects[key].Size, c.bucket.objects[key].Modified.Format("2006-01-02T15:04:05.000Z")})
		}
	}
	writeXML(w, 200, struct {
		XMLName      xml.Name `xml:"ListBucketResult"`
		EncodingType string
		IsTruncated  bool
		Contents     []item
	}{EncodingType: "url", Contents: list})
	return nil
}
