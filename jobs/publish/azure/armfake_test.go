package azure

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	armfake "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7/fake"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/azure/azuretest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// TestDiskOnTheSDKsFake makes and deletes a disk on the servers that come with the SDK, which take paths and documents apart by
// Azure's own description of the interface.
func TestDiskOnTheSDKsFake(t *testing.T) {
	var made armcompute.Disk
	conflicts, deleted := 2, false
	servers := &armfake.ServerFactory{DisksServer: armfake.DisksServer{
		BeginCreateOrUpdate: func(_ context.Context, group, _ string, d armcompute.Disk, _ *armcompute.DisksClientBeginCreateOrUpdateOptions) (r azfake.PollerResponder[armcompute.DisksClientCreateOrUpdateResponse], e azfake.ErrorResponder) {
			if group != azuretest.ResourceGroup {
				e.SetResponseError(http.StatusNotFound, "ResourceGroupNotFound")
				return r, e
			}
			made = d
			d.ID = ref("/disks/one")
			r.AddNonTerminalResponse(http.StatusAccepted, nil)
			r.SetTerminalResponse(http.StatusOK, armcompute.DisksClientCreateOrUpdateResponse{Disk: d}, nil)
			return r, e
		},
		BeginRevokeAccess: func(context.Context, string, string, *armcompute.DisksClientBeginRevokeAccessOptions) (r azfake.PollerResponder[armcompute.DisksClientRevokeAccessResponse], e azfake.ErrorResponder) {
			r.SetTerminalResponse(http.StatusOK, armcompute.DisksClientRevokeAccessResponse{}, nil)
			return r, e
		},
		BeginDelete: func(context.Context, string, string, *armcompute.DisksClientBeginDeleteOptions) (r azfake.PollerResponder[armcompute.DisksClientDeleteResponse], e azfake.ErrorResponder) {
			if conflicts--; conflicts >= 0 {
				e.SetResponseError(http.StatusConflict, "OperationNotAllowed")
				return r, e
			}
			deleted = true
			r.SetTerminalResponse(http.StatusNoContent, armcompute.DisksClientDeleteResponse{}, nil)
			return r, e
		},
	}}
	disks, err := armcompute.NewDisksClient(azuretest.Subscription, &azfake.TokenCredential{}, &arm.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: armfake.NewServerFactoryTransport(servers)}})
	if err != nil {
		t.Fatal(err)
	}
	p := &Publisher{group: azuretest.ResourceGroup, gallery: azuretest.Gallery, patience: patience{pause: time.Millisecond, retries: 4}}
	w := &work{session: &session{Publisher: p, disks: disks}, img: testImage(t, publishtest.Options{Arch: "arm64"}), home: "westeurope"}
	d, err := w.createDisk(t.Context(), "one", "someone")
	if err != nil || deref(d.ID) != "/disks/one" {
		t.Fatalf("made %+v: %v", d, err)
	}
	got := made.Properties
	if *got.CreationData.CreateOption != armcompute.DiskCreateOptionUpload || *got.CreationData.UploadSizeBytes != 20*mib+512 || *got.HyperVGeneration != armcompute.HyperVGenerationV2 ||
		*got.OSType != armcompute.OperatingSystemTypesLinux || *got.SupportedCapabilities.Architecture != armcompute.ArchitectureArm64 || *made.Location != "westeurope" || *made.Tags[tagVersion] != "20260814-1" {
		t.Errorf("the server got %+v", got)
	}
	if err := w.dropDisk(t.Context(), "one"); err != nil || !deleted {
		t.Errorf("deleted %v: %v", deleted, err)
	}
}
