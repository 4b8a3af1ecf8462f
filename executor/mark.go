package executor

import (
	"encoding/xml"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

// Namespace marks the executor's domains in libvirt: what carries no metadata of it is never touched.
const Namespace = "https://salsa.debian.org/cloud-team/debcloud/executor"

// namePrefix begins the names of all the executor's domains.
const namePrefix = "debcloud-job-"

// What a domain is for.
const (
	forJob     = "job"
	forPool    = "warm"    // nobody's yet
	forTestbed = "sibling" // started by a job
)

// Mark is what a domain's metadata say: whose it is and until when. It is the only truth about which VM belongs to whom.
type Mark struct {
	XMLName xml.Name `json:"-"`

	For       string `xml:"for,attr" json:"for"`
	Job       int64  `xml:"job,attr,omitempty" json:"job,omitempty"`
	JobName   string `xml:"name,attr,omitempty" json:"job_name,omitempty"`
	Server    string `xml:"server,attr,omitempty" json:"server,omitempty"`
	ProjectID int64  `xml:"projectID,attr,omitempty" json:"project_id,omitempty"`
	Project   string `xml:"project,attr,omitempty" json:"project,omitempty"`
	Ref       string `xml:"ref,attr,omitempty" json:"ref,omitempty"`
	Class     string `xml:"class,attr,omitempty" json:"class,omitempty"`
	URL       string `xml:"url,attr,omitempty" json:"url,omitempty"`
	// Image is the name of the VM image.
	Image string `xml:"image,attr,omitempty" json:"image"`
	// Digest is that of the disk image that the overlay stands on. "" for a file.
	Digest string `xml:"digest,attr,omitempty" json:"digest,omitempty"`
	// Attempt is Runner's directory of the attempt that the domain was made for: it is gone when the attempt is over.
	Attempt  string    `xml:"attempt,attr,omitempty" json:"attempt,omitempty"`
	Created  time.Time `xml:"created,attr" json:"created"`
	Deadline time.Time `xml:"deadline,attr" json:"deadline"`
	// DiskBytes is what the overlay may grow to.
	DiskBytes int64 `xml:"disk,attr,omitempty" json:"disk_bytes,omitempty"`
	// Testbed tells that the job may start siblings.
	Testbed bool `xml:"testbed,attr,omitempty" json:"testbed,omitempty"`
	// Of is the domain of the job that a sibling belongs to.
	Of string `xml:"of,attr,omitempty" json:"of,omitempty"`
	// Runner is the process that the attempt belongs to.
	Runner process.ID `xml:"runner" json:"runner"`
	// Secret is what driver and agent know each other by.
	Secret guest.Secret `xml:"secret,attr" json:"-"`
}

// element is the mark as libvirt takes it.
func (m Mark) element() ([]byte, error) {
	m.XMLName = xml.Name{Space: Namespace, Local: "vm"}
	return xml.Marshal(m)
}

// parseMark reads an element that libvirt hands back, without its namespace.
func parseMark(text []byte) (Mark, error) {
	var m Mark
	err := xml.Unmarshal(text, &m)
	return m, err
}
