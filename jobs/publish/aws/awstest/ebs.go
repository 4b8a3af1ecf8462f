package awstest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BlockSize is the size of a snapshot's blocks, bytes.
const BlockSize = 512 << 10

// block is one block of a snapshot; data is nil where blocks are not kept.
type block struct {
	sum  [sha256.Size]byte
	data []byte
}

// blockCount counts what PutSnapshotBlock took, again and again for one block too.
type blockCount struct{ Puts, Bytes int64 }

// Blocks returns how often PutSnapshotBlock succeeded and the bytes that it took.
func (c *Cloud) Blocks() (puts, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blocks.Puts, c.blocks.Bytes
}

// ebsAction finds the action and its target in a REST request.
func ebsAction(r *http.Request) (action, target string) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.Method == http.MethodPost && len(parts) == 1 && parts[0] == "snapshots":
		return "StartSnapshot", ""
	case r.Method == http.MethodPost && len(parts) == 3 && parts[1] == "completion":
		return "CompleteSnapshot", parts[2]
	case r.Method == http.MethodPost && len(parts) == 2 && parts[0] == "snapshots":
		return "CompleteSnapshot", parts[1]
	case len(parts) == 3 && parts[2] == "blocks" && r.Method == http.MethodGet:
		return "ListSnapshotBlocks", parts[1]
	case len(parts) == 4 && parts[2] == "blocks" && r.Method == http.MethodGet:
		return "GetSnapshotBlock", parts[1]
	case len(parts) == 4 && parts[2] == "blocks" && r.Method == http.MethodPut:
		return "PutSnapshotBlock", parts[1]
	}
	return "", ""
}

func (c *Cloud) ebs(r *request) (reply, *Failure) {
	switch r.call.Action {
	case "StartSnapshot":
		return c.startSnapshot(r)
	case "PutSnapshotBlock":
		return c.putBlock(r)
	case "CompleteSnapshot":
		return c.completeSnapshot(r)
	case "ListSnapshotBlocks":
		return c.listBlocks(r)
	case "GetSnapshotBlock":
		return c.getBlock(r)
	}
	return nil, &Failure{Status: 404, Code: "UnknownOperationException", Message: r.Method + " " + r.URL.Path}
}

func invalid(format string, args ...any) *Failure {
	return refuse("ValidationException", format, args...)
}

func (c *Cloud) startSnapshot(r *request) (reply, *Failure) {
	var in struct {
		VolumeSize       int
		ClientToken      string
		Description      string
		Timeout          *int
		Tags             []struct{ Key, Value string }
		Encrypted        *bool
		ParentSnapshotId string
	}
	d := json.NewDecoder(strings.NewReader(string(r.body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, invalid("%v", err)
	}
	tags := map[string]string{}
	for _, t := range in.Tags {
		tags[t.Key] = t.Value
	}
	switch {
	case in.VolumeSize < 1 || in.VolumeSize > 65536:
		return nil, invalid("volume size %d is not between 1 and 65536", in.VolumeSize)
	case len(in.ClientToken) > 64:
		return nil, invalid("the client token is longer than 64")
	case in.Timeout != nil && (*in.Timeout < 10 || *in.Timeout > 4320):
		return nil, invalid("timeout %d is not between 10 and 4320 minutes", *in.Timeout)
	case checkTags(tags) != nil:
		return nil, invalid("%s", checkTags(tags).Message)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	reg := c.region(r.call.Region)
	asked := fmt.Sprint(in.VolumeSize, in.Description, tags)
	if earlier, ok := reg.tokens["StartSnapshot/"+in.ClientToken]; ok && in.ClientToken != "" {
		if earlier.asked != asked {
			return nil, &Failure{Status: 409, Code: "ConflictException", Message: "The client token was used with other parameters"}
		}
		return sendJSON(http.StatusCreated, c.started(earlier.id, in.VolumeSize)), nil
	}
	if f := c.demandSnapshotQuota(reg); f != nil {
		return nil, &Failure{Status: 402, Code: "ServiceQuotaExceededException", Message: f.Message}
	}
	s := &Snapshot{SizeGB: in.VolumeSize, Description: in.Description, Tags: tags, pending: c.settings.Pending}
	c.addSnapshot(reg, s)
	reg.tokens["StartSnapshot/"+in.ClientToken] = idempotent{asked, s.ID}
	return sendJSON(http.StatusCreated, c.started(s.ID, in.VolumeSize)), nil
}

func (c *Cloud) started(id string, size int) map[string]any {
	return map[string]any{"SnapshotId": id, "BlockSize": BlockSize, "VolumeSize": size, "Status": "pending", "OwnerId": c.settings.Account, "StartTime": float64(time.Now().Unix())}
}

// writable finds a snapshot that takes blocks. Like all below it runs under the lock.
func (r *region) writable(id string) (*Snapshot, *Failure) {
	s, f := r.snapshot(id)
	if f != nil {
		return nil, &Failure{Status: 404, Code: "ResourceNotFoundException", Message: f.Message}
	}
	if s.State != "pending" || s.completed {
		return nil, invalid("The snapshot %s is not pending", id)
	}
	return s, nil
}

func (c *Cloud) putBlock(r *request) (reply, *Failure) {
	index, err := strconv.Atoi(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
	if err != nil || index < 0 {
		return nil, invalid("the block index is not a number")
	}
	if len(r.body) != BlockSize || r.Header.Get("X-Amz-Data-Length") != strconv.Itoa(BlockSize) {
		return nil, invalid("a block has %d bytes, this has %d and says %q", BlockSize, len(r.body), r.Header.Get("X-Amz-Data-Length"))
	}
	if r.Header.Get("X-Amz-Checksum-Algorithm") != "SHA256" {
		return nil, invalid("checksum algorithm %q", r.Header.Get("X-Amz-Checksum-Algorithm"))
	}
	b := block{sum: sha256.Sum256(r.body)}
	sum := base64.StdEncoding.EncodeToString(b.sum[:])
	if r.Header.Get("X-Amz-Checksum") != sum {
		return nil, invalid("the checksum of block %d is not that of its data", index)
	}
	if !c.now().Discard {
		b.data = slices.Clone(r.body)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, f := c.region(r.call.Region).writable(r.call.Target)
	if f != nil {
		return nil, f
	}
	if (int64(index)+1)*BlockSize > int64(s.SizeGB)<<30 {
		return nil, invalid("block %d is beyond the volume of %d GiB", index, s.SizeGB)
	}
	s.blocks[index] = b
	c.blocks.Puts++
	c.blocks.Bytes += BlockSize
	return func(w http.ResponseWriter) {
		w.Header().Set("X-Amz-Checksum", sum)
		w.Header().Set("X-Amz-Checksum-Algorithm", "SHA256")
		w.WriteHeader(http.StatusCreated)
	}, nil
}

func (c *Cloud) completeSnapshot(r *request) (reply, *Failure) {
	count, err := strconv.Atoi(r.Header.Get("X-Amz-Changedblockscount"))
	if err != nil {
		return nil, invalid("ChangedBlocksCount is required")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, f := c.region(r.call.Region).writable(r.call.Target)
	if f != nil {
		return nil, f
	}
	if count != len(s.blocks) {
		return nil, invalid("%d blocks were written where ChangedBlocksCount says %d", len(s.blocks), count)
	}
	if r.Header.Get("X-Amz-Checksum-Algorithm") != "SHA256" || r.Header.Get("X-Amz-Checksum-Aggregation-Method") != "LINEAR" || r.Header.Get("X-Amz-Checksum") != s.Linear() {
		return nil, invalid("the aggregated checksum is not that of the blocks")
	}
	s.completed = true
	return sendJSON(http.StatusAccepted, map[string]string{"Status": "pending"}), nil
}

// Linear is the aggregated checksum: the digest of the blocks' digests in the order of the blocks.
func (s *Snapshot) Linear() string {
	h := sha256.New()
	for _, i := range slices.Sorted(maps.Keys(s.blocks)) {
		sum := s.blocks[i].sum
		h.Write(sum[:])
	}
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// readable finds a snapshot whose blocks can be read.
func (r *region) readable(id string) (*Snapshot, *Failure) {
	s, f := r.snapshot(id)
	if f != nil {
		return nil, &Failure{Status: 404, Code: "ResourceNotFoundException", Message: f.Message}
	}
	if s.State != "completed" {
		return nil, invalid("The snapshot %s is not completed", id)
	}
	return s, nil
}

func (c *Cloud) listBlocks(r *request) (reply, *Failure) {
	q := r.URL.Query()
	size, err := strconv.Atoi(q.Get("maxResults"))
	if q.Get("maxResults") == "" {
		size, err = 10000, nil
	}
	if err != nil || size < 100 || size > 10000 {
		return nil, invalid("maxResults %q is not between 100 and 10000", q.Get("maxResults"))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, f := c.region(r.call.Region).readable(r.call.Target)
	if f != nil {
		return nil, f
	}
	indices := slices.Sorted(maps.Keys(s.blocks))
	from, _ := strconv.Atoi(q.Get("pageToken"))
	if from < 0 || from > len(indices) {
		return nil, invalid("the page token is not ours")
	}
	answer := map[string]any{"BlockSize": BlockSize, "VolumeSize": s.SizeGB, "ExpiryTime": float64(time.Now().Add(time.Hour).Unix())}
	indices = indices[from:]
	if len(indices) > size {
		indices = indices[:size]
		answer["NextToken"] = strconv.Itoa(from + size)
	}
	blocks := []map[string]any{}
	for _, i := range indices {
		blocks = append(blocks, map[string]any{"BlockIndex": i, "BlockToken": s.token(i)})
	}
	answer["Blocks"] = blocks
	return sendJSON(http.StatusOK, answer), nil
}

func (s *Snapshot) token(index int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", s.ID, index))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (c *Cloud) getBlock(r *request) (reply, *Failure) {
	index, err := strconv.Atoi(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
	if err != nil {
		return nil, invalid("the block index is not a number")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, f := c.region(r.call.Region).readable(r.call.Target)
	if f != nil {
		return nil, f
	}
	b, ok := s.blocks[index]
	if !ok || r.URL.Query().Get("blockToken") != s.token(index) {
		return nil, invalid("the block token is not that of block %d", index)
	}
	return func(w http.ResponseWriter) {
		w.Header().Set("X-Amz-Data-Length", strconv.Itoa(BlockSize))
		w.Header().Set("X-Amz-Checksum", base64.StdEncoding.EncodeToString(b.sum[:]))
		w.Header().Set("X-Amz-Checksum-Algorithm", "SHA256")
		w.Write(b.data)
	}, nil
}
