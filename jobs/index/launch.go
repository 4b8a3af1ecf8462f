package index

import (
	"cmp"
	"net/url"
	"path"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// ways tell how a VM of an image is started at a provider: a page of the provider, "" where it has none that takes an image,
// a command line and a line of HCL. Words in capitals are the reader's to fill in.
var ways = map[string]func(arch, region, ref string) (launch, cli, hcl string){
	"aws.amazon.com": func(arch, region, ref string) (string, string, string) {
		console := region + ".console.aws.amazon.com"
		switch {
		case strings.HasPrefix(region, "cn-"):
			console = region + ".console.amazonaws.cn"
		case strings.HasPrefix(region, "us-gov-"):
			console = "console.amazonaws-us-gov.com"
		}
		machine := "t3.micro"
		if arch == "arm64" {
			machine = "t4g.micro"
		}
		return "https://" + console + "/ec2/home?region=" + url.QueryEscape(region) + "#LaunchInstances:ami=" + url.QueryEscape(ref),
			"aws ec2 run-instances --region " + region + " --image-id " + ref + " --instance-type " + machine + " --key-name KEY",
			`ami = "` + ref + `"`
	},
	"cloud.google.com": func(arch, _, ref string) (string, string, string) {
		machine := "" // what gcloud takes is for amd64
		if arch == "arm64" {
			machine = " --machine-type=t2a-standard-1"
		}
		project := strings.Split(strings.TrimPrefix(ref, "projects/"), "/")[0]
		return "https://console.cloud.google.com/compute/imagesDetail/" + ref,
			"gcloud compute instances create NAME --image=" + path.Base(ref) + " --image-project=" + project + machine,
			`image = "` + ref + `"`
	},
	"azure.microsoft.com": func(arch, region, ref string) (string, string, string) {
		cli := "az vm create --resource-group GROUP --name NAME --image " + ref
		if arch == "arm64" { // az takes a size for amd64
			cli += " --size Standard_B2pts_v2"
		}
		if region != "" {
			cli += " --location " + region
		}
		return "", cli, `source_image_id = "` + ref + `"`
	},
	"alibabacloud.com": func(_, region, ref string) (string, string, string) {
		return "", "aliyun ecs RunInstances --RegionId " + region + " --ImageId " + ref + " --InstanceType TYPE --VSwitchId SWITCH", `image_id = "` + ref + `"`
	},
	"openstack.org": func(_, region, ref string) (string, string, string) {
		cli := "openstack "
		if region != "" {
			cli += "--os-region-name " + region + " "
		}
		return "", cli + "server create --image " + ref + " --flavor FLAVOR --network NETWORK NAME", `image_id = "` + ref + `"`
	},
}

// cloudUpload tells of an upload what a user needs. A reference that is no plain identifier gets no lines to copy into a shell.
func cloudUpload(arch string, u manifest.Upload) manifest.IndexUpload {
	labels := u.Metadata.Labels
	i := manifest.IndexUpload{
		Provider: u.Domain(), Ref: u.Data.Ref, Labels: labels,
		Region: cmp.Or(labels[manifest.LabelRegion], labels[manifest.LabelAWSRegion]),
	}
	if u.Data.FamilyRef != nil {
		i.Family = *u.Data.FamilyRef
	}
	if way := ways[i.Provider]; way != nil && plain(i.Ref) && plain(i.Region) {
		i.Launch, i.CLI, i.HCL = way(arch, i.Region, i.Ref)
	}
	return i
}

// plain tells whether a text means the same to a shell, to HCL and in a URL's path.
func plain(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._/", r)
	}) < 0
}
