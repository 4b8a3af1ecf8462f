package awstest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
)

// user has the double's clients, which try each call once.
type user struct {
	ec2 *ec2.Client
	ebs *ebs.Client
	ssm *ssm.Client
}

func newUser(t *testing.T, s Settings) (*Cloud, user) {
	c := New(s)
	t.Cleanup(c.Close)
	config := aws.Config{
		Region: "us-east-1", BaseEndpoint: &c.URL, Credentials: credentials.NewStaticCredentialsProvider(KeyID, Secret, ""),
		Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	}
	return c, user{ec2.NewFromConfig(config), ebs.NewFromConfig(config), ssm.NewFromConfig(config)}
}

// snapshot makes a complete snapshot of one block.
func (u user) snapshot(t *testing.T) string {
	t.Helper()
	out, err := u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.Repeat([]byte{7}, BlockSize)
	if err := u.put(t, *out.SnapshotId, 0, b, digest(b)); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	if err := u.complete(t, *out.SnapshotId, 1, digest(sum[:])); err != nil {
		t.Fatal(err)
	}
	if _, err := u.ec2.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*out.SnapshotId}}); err != nil {
		t.Fatal(err)
	}
	return *out.SnapshotId
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (u user) put(t *testing.T, id string, index int32, b []byte, sum string) error {
	_, err := u.ebs.PutSnapshotBlock(t.Context(), &ebs.PutSnapshotBlockInput{
		SnapshotId: &id, BlockIndex: &index, BlockData: bytes.NewReader(b), DataLength: aws.Int32(int32(len(b))), Checksum: &sum, ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
	})
	return err
}

func (u user) complete(t *testing.T, id string, blocks int32, sum string) error {
	_, err := u.ebs.CompleteSnapshot(t.Context(), &ebs.CompleteSnapshotInput{
		SnapshotId: &id, ChangedBlocksCount: &blocks, Checksum: &sum, ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
		ChecksumAggregationMethod: ebstypes.ChecksumAggregationMethodChecksumAggregationLinear,
	})
	return err
}

func (u user) register(t *testing.T, snapshot string, change func(*ec2.RegisterImageInput)) (string, error) {
	in := &ec2.RegisterImageInput{
		Name: aws.String("image"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"), RootDeviceName: aws.String("/dev/xvda"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: &snapshot}}},
	}
	if change != nil {
		change(in)
	}
	out, err := u.ec2.RegisterImage(t.Context(), in)
	if err != nil {
		return "", err
	}
	return *out.ImageId, nil
}

func TestRefuses(t *testing.T) {
	for _, row := range []struct {
		summary string
		s       Settings
		call    func(*testing.T, *Cloud, user) error
		want    string
	}{
		{"a block with another digest", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			out, _ := u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
			return u.put(t, *out.SnapshotId, 0, make([]byte, BlockSize), digest([]byte("x")))
		}, "ValidationException: the checksum of block 0 is not that of its data"},
		{"half a block", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			out, _ := u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
			return u.put(t, *out.SnapshotId, 0, make([]byte, 4096), digest(make([]byte, 4096)))
		}, "ValidationException: a block has 524288 bytes"},
		{"a block beyond the volume", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			out, _ := u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
			return u.put(t, *out.SnapshotId, 2048, make([]byte, BlockSize), digest(make([]byte, BlockSize)))
		}, "is beyond the volume"},
		{"a wrong number of blocks", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			out, _ := u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
			return u.complete(t, *out.SnapshotId, 1, digest(nil))
		}, "0 blocks were written where ChangedBlocksCount says 1"},
		{"a wrong sum of all", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			out, _ := u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
			return u.complete(t, *out.SnapshotId, 0, digest([]byte("x")))
		}, "the aggregated checksum is not that of the blocks"},
		{"a block after the end", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			return u.put(t, u.snapshot(t), 1, make([]byte, BlockSize), digest(make([]byte, BlockSize)))
		}, "is not pending"},
		{"a token used for something else", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1), ClientToken: aws.String("t")})
			_, err := u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(2), ClientToken: aws.String("t")})
			return err
		}, "ConflictException"},
		{"an image of a pending snapshot", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			out, _ := u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
			_, err := u.register(t, *out.SnapshotId, nil)
			return err
		}, "is not in completed state"},
		{"a name twice", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			s := u.snapshot(t)
			u.register(t, s, nil)
			_, err := u.register(t, s, nil)
			return err
		}, "InvalidAMIName.Duplicate"},
		{"a TPM without UEFI", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			_, err := u.register(t, u.snapshot(t), func(in *ec2.RegisterImageInput) {
				in.TpmSupport, in.BootMode = types.TpmSupportValuesV20, types.BootModeValuesUefiPreferred
			})
			return err
		}, "TpmSupport requires boot mode uefi"},
		{"a parameter that the double does not know", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			_, err := u.register(t, u.snapshot(t), func(in *ec2.RegisterImageInput) { in.KernelId = aws.String("aki-1") })
			return err
		}, "UnknownParameter: The parameter KernelId"},
		{"a snapshot right after its start", Settings{Hidden: 1}, func(t *testing.T, _ *Cloud, u user) error {
			out, _ := u.ebs.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
			return u.put(t, *out.SnapshotId, 0, make([]byte, BlockSize), digest(make([]byte, BlockSize)))
		}, "ResourceNotFoundException"},
		{"an image right after its registration", Settings{}, func(t *testing.T, c *Cloud, u user) error {
			s := u.snapshot(t)
			c.Set(func(s *Settings) { s.Hidden = 1 })
			id, _ := u.register(t, s, nil)
			_, err := u.ec2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{id}})
			return err
		}, "InvalidAMIID.NotFound"},
		{"the snapshot of an image", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			s := u.snapshot(t)
			u.register(t, s, nil)
			_, err := u.ec2.DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &s})
			return err
		}, "InvalidSnapshot.InUse"},
		{"a parameter under aws", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			_, err := u.ssm.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("/aws/x"), Value: aws.String("v"), Type: "String"})
			return err
		}, "can't be prefixed with"},
		{"a deprecation in the past", Settings{}, func(t *testing.T, _ *Cloud, u user) error {
			id, _ := u.register(t, u.snapshot(t), nil)
			u.ec2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{id}})
			_, err := u.ec2.EnableImageDeprecation(t.Context(), &ec2.EnableImageDeprecationInput{ImageId: &id, DeprecateAt: aws.Time(time.Now().Add(-time.Hour))})
			return err
		}, "is in the past"},
		{"calls that come too fast", Settings{TooFast: 1}, func(t *testing.T, _ *Cloud, u user) error {
			_, err := u.ec2.DescribeRegions(t.Context(), nil)
			return err
		}, "RequestLimitExceeded"},
		{"a region that is not enabled", Settings{Regions: []string{"eu-west-1"}}, func(t *testing.T, _ *Cloud, u user) error {
			_, err := u.ec2.DescribeImages(t.Context(), nil)
			return err
		}, "AuthFailure"},
		{"a clock that is off", Settings{Skew: -time.Hour}, func(t *testing.T, _ *Cloud, u user) error {
			_, err := u.ec2.DescribeImages(t.Context(), nil)
			return err
		}, "RequestExpired"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			c, u := newUser(t, row.s)
			if err := row.call(t, c, u); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("the answer is %v", err)
			}
		})
	}
}

// TestSignatures changes a signed request on its way.
func TestSignatures(t *testing.T) {
	for _, row := range []struct {
		summary string
		change  func(*http.Request)
		status  int
	}{
		{"as it was signed", func(*http.Request) {}, 200},
		{"another header", func(r *http.Request) { r.Header.Set("X-Amz-Date", "20200101T000000Z") }, 401},
		{"another body", func(r *http.Request) { r.Body = http.NoBody; r.ContentLength = 0 }, 401},
		{"another path", func(r *http.Request) { r.URL.Path = "/x" }, 401},
		{"another query", func(r *http.Request) { r.URL.RawQuery = url.Values{"a": {"b"}}.Encode() }, 401},
		{"no signature", func(r *http.Request) { r.Header.Del("Authorization") }, 403},
	} {
		c := New(Settings{})
		status := 0
		client := ec2.New(ec2.Options{
			Region: "us-east-1", BaseEndpoint: &c.URL, Credentials: credentials.NewStaticCredentialsProvider(KeyID, Secret, ""), Retryer: aws.NopRetryer{},
			HTTPClient: &http.Client{Transport: changed(func(r *http.Request) (*http.Response, error) {
				row.change(r)
				response, err := http.DefaultTransport.RoundTrip(r)
				if err == nil {
					status = response.StatusCode
				}
				return response, err
			})},
		})
		client.DescribeRegions(t.Context(), nil)
		if status != row.status {
			t.Errorf("%s: %d", row.summary, status)
		}
		c.Close()
	}
}

type changed func(*http.Request) (*http.Response, error)

func (f changed) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
