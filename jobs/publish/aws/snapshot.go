package aws

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

const (
	blockSize      = 512 << 10 // of EBS direct, the only one there is
	gib            = 1 << 30
	timeoutMinutes = 240 // without a block written, after which AWS cancels a snapshot
	stepSnapshot   = "snapshot"
)

// snapshot returns the image's complete snapshot in the home region.
func (p *publication) snapshot(ctx context.Context) (string, error) {
	return journal.StandingStep(ctx, p.entry, stepSnapshot, p.snapshotStands, p.makeSnapshot)
}

func (p *publication) snapshotStands(ctx context.Context, id string) (bool, error) {
	out, err := p.login.in(p.settings.Home).ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
	if is(err, "InvalidSnapshot.NotFound") {
		return false, nil
	}
	if err != nil {
		return false, explain(ctx, p.settings.Home, "DescribeSnapshots", err)
	}
	return len(out.Snapshots) == 1 && out.Snapshots[0].State == types.SnapshotStateCompleted, nil
}

// makeSnapshot finds the snapshot that an earlier run made or began, or begins one, and fills it. Snapshots that AWS gave up are removed
// once there is a whole one.
func (p *publication) makeSnapshot(ctx context.Context) (string, error) {
	found, err := p.findSnapshots(ctx)
	if err != nil {
		return "", err
	}
	id, dead := "", []string{}
	for _, s := range found {
		switch s.State {
		case types.SnapshotStateCompleted:
			return deref(s.SnapshotId), p.removeDead(ctx, dead)
		case types.SnapshotStatePending:
			id = deref(s.SnapshotId)
		default:
			dead = append(dead, deref(s.SnapshotId))
		}
	}
	for id == "" {
		if id, err = p.beginSnapshot(ctx, &dead); err != nil {
			return "", err
		}
	}
	if err := p.fill(ctx, id); err != nil {
		return "", err
	}
	return id, p.removeDead(ctx, dead)
}

// findSnapshots returns the image's snapshots in the home region, complete ones first.
func (p *publication) findSnapshots(ctx context.Context) ([]types.Snapshot, error) {
	in := &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: filters(map[string]string{tagName: p.name, tagOwner: owner, tagDigest: p.img.Digest.String()}, nil)}
	var found []types.Snapshot
	for pages := ec2.NewDescribeSnapshotsPaginator(p.login.in(p.settings.Home).ec2, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(ctx, p.settings.Home, "DescribeSnapshots", err)
		}
		found = append(found, page.Snapshots...)
	}
	slices.SortStableFunc(found, func(a, b types.Snapshot) int { return rank(a.State) - rank(b.State) })
	return found, nil
}

// rank orders states by what they save: a complete snapshot all work, a pending one the start.
func rank(s types.SnapshotState) int {
	switch s {
	case types.SnapshotStateCompleted:
		return 0
	case types.SnapshotStatePending:
		return 1
	}
	return 2
}

// beginSnapshot starts a snapshot. The token makes AWS return the one that an earlier run started, even where AWS does not show it yet.
// One that AWS has given up since is added to dead, "" returned, and the next call has another token.
func (p *publication) beginSnapshot(ctx context.Context, dead *[]string) (string, error) {
	size := (p.img.Size() + gib - 1) / gib
	out, err := p.login.in(p.settings.Home).ebs.StartSnapshot(ctx, &ebs.StartSnapshotInput{
		VolumeSize: &size, Description: aws.String(description(p.img)), Tags: ebsTags(p.tags()), Timeout: aws.Int32(timeoutMinutes),
		ClientToken: aws.String(p.token(append([]string{"snapshot"}, *dead...)...)[:64]),
	})
	if err != nil {
		return "", explain(ctx, p.settings.Home, "StartSnapshot", err)
	}
	id := deref(out.SnapshotId)
	if deref(out.BlockSize) != blockSize && !slices.Contains(p.lenient, "block size") {
		return "", fmt.Errorf("StartSnapshot in %s wants blocks of %d bytes where this program writes %d", p.settings.Home, deref(out.BlockSize), blockSize)
	}
	s, err := p.lookAtSnapshot(ctx, p.settings.Home, id)
	if is(err, "InvalidSnapshot.NotFound") || err == nil && s.State == types.SnapshotStateError {
		*dead = append(*dead, id)
		return "", nil
	}
	p.changed.Store(true)
	return id, err
}

// lookAtSnapshot waits until AWS shows a snapshot that was made.
func (a *Publisher) lookAtSnapshot(ctx context.Context, region, id string) (s types.Snapshot, err error) {
	err = a.soon(ctx, func() error {
		out, err := a.login.in(region).ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
		if err == nil && len(out.Snapshots) == 1 {
			s = out.Snapshots[0]
		}
		return err
	})
	return s, explain(ctx, region, "DescribeSnapshots", err)
}

// fill writes the image into the pending snapshot, completes it, and compares what AWS says it has with what was written. AWS lists no blocks of a
// pending snapshot, so those that an earlier run wrote are known by their marks in the journal; that they are there is known when AWS
// completes the snapshot by the sum over all of them. Where it does not, no mark is believed, and all blocks are sent.
func (p *publication) fill(ctx context.Context, id string) error {
	marks, err := p.entry.Marks(ctx, stepSnapshot, id, p.between)
	if err != nil {
		return err
	}
	known := marks.Len()
	if known > 0 {
		slog.InfoContext(ctx, "an upload that was cut goes on", "image", p.img.Name(), "snapshot", id, "MiB there", known*blockSize>>20)
	}
	written := &indices{}
	sent, err := p.send(ctx, id, marks, written)
	if kept := marks.Keep(); err == nil {
		err = kept
	}
	switch {
	case is(err, "ValidationException", "ConflictException"):
		return p.settle(ctx, id, err) // an earlier run may have completed it
	case fault.KindOf(err) == fault.Input && code(err) == "":
		return p.drop(ctx, id, err)
	case err != nil:
		return err
	}
	p.changed.Store(true)
	err = p.complete(ctx, id, sent)
	switch {
	case is(err, "ValidationException", "ConflictException"):
		return p.doubt(ctx, id, marks, known, err)
	case err != nil:
		return explain(ctx, p.settings.Home, "CompleteSnapshot", err)
	}
	if _, err := p.waitSnapshot(ctx, p.settings.Home, id); err != nil {
		return err
	}
	return p.compareBlocks(ctx, id, written.sorted())
}

// complete tells AWS that all blocks are there. The error is AWS's own.
func (p *publication) complete(ctx context.Context, id string, sent raw.Sent) error {
	_, err := p.login.in(p.settings.Home).ebs.CompleteSnapshot(ctx, &ebs.CompleteSnapshotInput{
		SnapshotId: &id, ChangedBlocksCount: aws.Int32(int32(sent.All)), Checksum: aws.String(base64.StdEncoding.EncodeToString(sent.Linear[:])),
		ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256, ChecksumAggregationMethod: ebstypes.ChecksumAggregationMethodChecksumAggregationLinear,
	})
	return err
}

// doubt decides about a snapshot that AWS does not complete. Where some of its blocks were left out, as known from the journal, all are sent once.
func (p *publication) doubt(ctx context.Context, id string, marks *journal.Marks, known int, refusal error) error {
	err := p.settle(ctx, id, refusal)
	if err == nil || known == 0 || ctx.Err() != nil {
		return err
	}
	slog.WarnContext(ctx, "AWS does not have the blocks that the journal says it has: all are sent", "image", p.img.Name(), "snapshot", id, "error", err)
	if err := marks.Clear(); err != nil {
		return err
	}
	return p.fill(ctx, id)
}

// send writes the blocks that have no mark, and marks them. written is told of those that have one, too.
func (p *publication) send(ctx context.Context, id string, marks *journal.Marks, written *indices) (raw.Sent, error) {
	u := raw.Upload{BlockSize: blockSize, Workers: workers, Pad: true, Digest: true, Skip: func(b raw.Block) bool {
		if !marks.Has(b.Index, b.Print) {
			return false
		}
		written.add(int32(b.Index))
		return true
	}}
	return p.img.Send(ctx, "upload", u, func(ctx context.Context, b raw.Block) error {
		written.add(int32(b.Index))
		if err := p.putBlock(ctx, id, b); err != nil {
			return err
		}
		return marks.Add(b.Index, b.Print)
	})
}

type indices struct {
	mu   sync.Mutex
	list []int32
}

func (i *indices) add(index int32) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.list = append(i.list, index)
}

func (i *indices) sorted() []int32 { return slices.Sorted(slices.Values(i.list)) }

func (p *publication) putBlock(ctx context.Context, id string, b raw.Block) error {
	err := p.soon(ctx, func() error {
		_, err := p.login.in(p.settings.Home).ebs.PutSnapshotBlock(ctx, &ebs.PutSnapshotBlockInput{
			SnapshotId: &id, BlockIndex: aws.Int32(int32(b.Index)), BlockData: bytes.NewReader(b.Data), DataLength: aws.Int32(int32(len(b.Data))),
			Checksum: aws.String(base64.StdEncoding.EncodeToString(b.SHA256[:])), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
		})
		return err
	})
	return explain(ctx, p.settings.Home, "PutSnapshotBlock", err)
}

// settle decides about a snapshot that takes no blocks: it is whole where an earlier run, or another publisher at this moment, completed it.
func (p *publication) settle(ctx context.Context, id string, refusal error) error {
	var state types.SnapshotState
	_, err := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
		s, err := p.lookAtSnapshot(ctx, p.settings.Home, id)
		state = s.State
		return state != types.SnapshotStatePending, err
	})
	if err == nil && state == types.SnapshotStateCompleted {
		return nil
	}
	return explain(ctx, p.settings.Home, "PutSnapshotBlock", refusal)
}

// drop removes a snapshot that does not hold the image of the documents.
func (p *publication) drop(ctx context.Context, id string, why error) error {
	_, err := p.login.in(p.settings.Home).ec2.DeleteSnapshot(context.WithoutCancel(ctx), &ec2.DeleteSnapshotInput{SnapshotId: &id})
	if err != nil {
		slog.Warn("a snapshot with other data than the image stays", "snapshot", id, "region", p.settings.Home, "error", explain(ctx, p.settings.Home, "DeleteSnapshot", err))
	}
	return why
}

func (p *publication) removeDead(ctx context.Context, dead []string) error {
	for _, id := range dead {
		_, err := p.login.in(p.settings.Home).ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &id})
		if err != nil && !is(err, "InvalidSnapshot.NotFound") {
			return explain(ctx, p.settings.Home, "DeleteSnapshot", err)
		}
	}
	return nil
}

// waitSnapshot waits until a snapshot is complete, and returns it.
func (p *publication) waitSnapshot(ctx context.Context, region, id string) (types.Snapshot, error) {
	var last types.Snapshot
	done, err := p.patience.Until(ctx, p.patience.pending, func() (bool, error) {
		s, err := p.lookAtSnapshot(ctx, region, id)
		last = s
		return s.State != types.SnapshotStatePending, err
	})
	switch {
	case err != nil:
		return last, err
	case !done:
		return last, fault.Outsidef("snapshot %s in %s is still pending after %s", id, region, p.patience.pending)
	case last.State != types.SnapshotStateCompleted:
		return last, fault.WithHint(fault.Outsidef("snapshot %s in %s is in state %q where completed was expected: %s", id, region, last.State, deref(last.StateMessage)), "run the same command again: it uploads the image anew")
	}
	return last, nil
}

// compareBlocks has AWS list the snapshot's blocks and compares them with those that were written.
func (p *publication) compareBlocks(ctx context.Context, id string, want []int32) error {
	var have []int32
	for pages := ebs.NewListSnapshotBlocksPaginator(p.login.in(p.settings.Home).ebs, &ebs.ListSnapshotBlocksInput{SnapshotId: &id}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return explain(ctx, p.settings.Home, "ListSnapshotBlocks", err)
		}
		for _, b := range page.Blocks {
			have = append(have, deref(b.BlockIndex))
		}
	}
	if slices.Sort(have); !slices.Equal(have, want) {
		return p.drop(ctx, id, fault.Outsidef("snapshot %s in %s has %d blocks where %d were written, or others than those, and was removed: run the same command again", id, p.settings.Home, len(have), len(want)))
	}
	return nil
}
