// Package settings is the executor's one configuration file: what it holds, what is meant where it says nothing, and what
// is wrong with it. It is data and checks alone: nothing here looks at the host.
package settings

import (
	"time"
)

// DefaultPath is where the file is when nothing else is said.
const DefaultPath = "/etc/debcloud/executor.yaml"

// Settings are the whole file. Default holds the values of what a file leaves out.
type Settings struct {
	Libvirt Libvirt `yaml:"libvirt"`
	// State is the directory of what must outlive a process and a boot: ledger of admission, counters of the metrics,
	// warm pool. Absolute.
	State string `yaml:"state"`
	// Run is the directory of sockets and locks, on a file system that a boot empties. Absolute, at most 60 bytes long,
	// because the names of sockets in it may have 108.
	Run      string  `yaml:"run"`
	Pool     Storage `yaml:"pool"`
	Networks Refs    `yaml:"networks"`
	// Images is the allow-list, by the name that a job's `image:` says.
	Images map[string]Image `yaml:"images"`
	// DefaultImage is the image of a job that names none. Where Images has one image only, it may be left out.
	DefaultImage string `yaml:"default_image"`
	// Limits hold for every job; an image's and a project's narrow them further.
	Limits Limits `yaml:"limits"`
	// Projects are limits by project. The first that matches counts.
	Projects  []Project `yaml:"projects"`
	Budget    Budget    `yaml:"budget"`
	Console   Console   `yaml:"console"`
	Agent     Agent     `yaml:"agent"`
	Guest     Guest     `yaml:"guest"`
	Deadlines Deadlines `yaml:"deadlines"`
	// GitlabRunner is the host's gitlab-runner, which the tools disk brings into each VM.
	GitlabRunner string   `yaml:"gitlab_runner"`
	WarmPool     WarmPool `yaml:"warm_pool"`
	Testbed      Testbed  `yaml:"testbed"`
	Metrics      Metrics  `yaml:"metrics"`
	Log          Log      `yaml:"log"`

	// Path is the file that was read; "" for Default.
	Path string `yaml:"-"`
}

// Libvirt says which daemon runs the domains.
type Libvirt struct {
	// URI is libvirt's name of the daemon.
	URI string `yaml:"uri"`
	// Accelerator is "auto" (KVM where a guest has really run on it, else TCG), "kvm" (refuse without) or "tcg".
	Accelerator string `yaml:"accelerator"`
}

// Storage is the libvirt storage pool (type dir) of base volumes, overlays, seeds and the tools disk.
type Storage struct {
	Name string `yaml:"name"`
	// Path is the pool's directory, used when the pool is created. Absolute.
	Path string `yaml:"path"`
}

// Refs say which network a job gets, by whose code it runs.
type Refs struct {
	// Protected is for jobs of protected branches and tags.
	Protected Network `yaml:"protected"`
	// Unprotected is for jobs of every other ref of the project.
	Unprotected Network `yaml:"unprotected"`
	// Fork is for merge requests whose source is another project.
	Fork Network `yaml:"fork"`
}

// Network modes.
const (
	NAT  = "nat"  // a libvirt network with isolated ports and an nwfilter
	None = "none" // no interface at all
	User = "user" // QEMU's user-space network: for one developer's machine
)

// Network is what a VM is plugged into.
type Network struct {
	// Mode is NAT, None or User.
	Mode string `yaml:"mode"`
	// Name is libvirt's name of the network. NAT only.
	Name string `yaml:"name,omitempty"`
	// Subnet is the addresses of the network where that is made: a network that is there keeps its own. NAT only.
	Subnet string `yaml:"subnet,omitempty"`
	// Filter is libvirt's name of the nwfilter on the VM's port. NAT only.
	Filter string `yaml:"filter,omitempty"`
}

// Image is one VM image that jobs may name. With neither Digest nor File it is the newest that `debcloud executor image`
// imported under its name.
type Image struct {
	// Digest pins an imported image: "sha512:" and 128 hexadecimal digits.
	Digest string `yaml:"digest,omitempty"`
	// File is a disk image outside of the pool, which is only read. Absolute.
	File string `yaml:"file,omitempty"`
	// Format of File: "qcow2" or "raw". Default qcow2.
	Format string `yaml:"format,omitempty"`
	// Firmware is "bios" or "uefi". Default bios.
	Firmware string `yaml:"firmware,omitempty"`
	// Seed "nocloud" attaches a NoCloud seed that starts the agent, for an image that does not know of it, such as
	// Debian's genericcloud. Such an image may lack git. Default: none.
	Seed   string `yaml:"seed,omitempty"`
	Limits Limits `yaml:"limits,omitempty"`
}

// Machine is the size of one VM. Zero values: not said.
type Machine struct {
	CPUs   int  `yaml:"cpus,omitempty"`
	Memory Size `yaml:"memory,omitempty"`
	// Disk is the size of the root disk that the guest sees.
	Disk Size `yaml:"disk,omitempty"`
}

// Limits say what a job gets that asks for nothing, and the most that it may ask for.
type Limits struct {
	Default Machine `yaml:"default,omitempty"`
	Max     Machine `yaml:"max,omitempty"`
}

// Project gives the projects that Match names limits of their own.
type Project struct {
	// Match is a project's full path; * stands for anything within one level, a final /** for everything below.
	Match  string `yaml:"match"`
	Limits Limits `yaml:"limits"`
}

// Budget is what all VMs together may use, the warm pool's and the test beds' included.
type Budget struct {
	// CPUs is the sum of virtual processors. 0: the host's minus the reserve.
	CPUs int `yaml:"cpus"`
	// Memory is the sum of guest memory. 0: the host's minus the reserve.
	Memory Size `yaml:"memory"`
	// Disk is the sum of what overlays may grow to. 0: the pool's file system minus the reserve.
	Disk Size `yaml:"disk"`
	// VMs is how many may exist at once. 0: no such limit.
	VMs int `yaml:"vms"`
	// Reserve is kept for the host and its other users: a job also waits while the host has less than that left over
	// after the job got its memory and disk.
	Reserve Machine `yaml:"reserve"`
}

// Console is where serial consoles are kept.
type Console struct {
	Dir string `yaml:"dir"` // absolute
	// Cap is what the files of one console may take up together. libvirt's virtlogd is what bounds them, for all its users
	// alike; check-config tells where it allows more.
	Cap Size `yaml:"cap"`
	// Keep is how long reap leaves the files of jobs that are over.
	Keep time.Duration `yaml:"keep"`
}

// Agent bounds the waits for the agent in the VM, and for the network.
type Agent struct {
	// Boot is from power-on until the agent answers, with KVM.
	Boot time.Duration `yaml:"boot"`
	// BootEmulated is the same without KVM.
	BootEmulated time.Duration `yaml:"boot_emulated"`
	// Connect is for each later connection, and for the network when the system is up.
	Connect time.Duration `yaml:"connect"`
}

// Guest says where Runner's directories are in the VM.
type Guest struct {
	BuildsDir string `yaml:"builds_dir"` // absolute, in the guest
	CacheDir  string `yaml:"cache_dir"`  // absolute, in the guest
}

// Deadlines bound what could last for ever.
type Deadlines struct {
	// Job is the age at which reap takes a job's VM away, whatever it does. A job with a shorter timeout of its own has
	// that, plus Grace.
	Job time.Duration `yaml:"job"`
	// Grace is added to a job's own timeout, for after_script and uploads.
	Grace time.Duration `yaml:"grace"`
	// Admission is the longest wait for room on the host.
	Admission time.Duration `yaml:"admission"`
}

// WarmPool says which VMs stand ready.
type WarmPool struct {
	// MaxAge replaces a VM that nobody claimed for so long.
	MaxAge time.Duration `yaml:"max_age"`
	// Check is how often each is asked whether it is well, and how often missing ones are made.
	Check time.Duration `yaml:"check"`
	VMs   []Warm        `yaml:"vms"`
}

// Warm is a number of VMs alike. Their size is the image's default.
type Warm struct {
	Image string `yaml:"image"`
	// Refs is whose network they are plugged into: "protected", "unprotected" or "fork".
	Refs  string `yaml:"refs"`
	Count int    `yaml:"count"`
}

// Testbed says which jobs may start sibling VMs, and how many.
type Testbed struct {
	// Projects are patterns as in Project.Match. Empty: none.
	Projects []string `yaml:"projects"`
	// Unprotected allows it on unprotected refs too.
	Unprotected bool `yaml:"unprotected"`
	// Budget is for all siblings of one job together, with the disks that it hands over.
	Budget Resources `yaml:"budget"`
}

// Resources are what VMs use of a host.
type Resources struct {
	CPUs   int  `yaml:"cpus" json:"cpus"`
	Memory Size `yaml:"memory" json:"memory"`
	Disk   Size `yaml:"disk" json:"disk"`
	VMs    int  `yaml:"vms" json:"vms"`
}

// Metrics are where Prometheus finds them.
type Metrics struct {
	// Textfile is written for node_exporter's textfile collector, name ending in ".prom". Empty: not written.
	Textfile string `yaml:"textfile"`
	// Address is where `executor pool` serves HTTP, on loopback. Empty: not served.
	Address string `yaml:"address"`
}

// Log is the host's own log; a job's log gets one sentence of it.
type Log struct {
	// File is appended to, in JSON. Empty: the journal, and where there is none, nothing.
	File string `yaml:"file"`
	// Level is "debug", "info", "warn" or "error".
	Level string `yaml:"level"`
}

// Default returns what holds where a file says nothing.
func Default() *Settings {
	s := bare()
	s.complete()
	return s
}

// bare is Default without what depends on other settings.
func bare() *Settings {
	nat := Network{Mode: NAT, Name: "debcloud", Subnet: "198.18.0.0/22", Filter: "debcloud-job"}
	return &Settings{
		Libvirt:  Libvirt{URI: "qemu:///system", Accelerator: "auto"},
		State:    "/var/lib/debcloud/executor",
		Run:      "/run/debcloud/executor",
		Pool:     Storage{Name: "debcloud", Path: "/var/lib/debcloud/pool"},
		Networks: Refs{Protected: nat, Unprotected: nat, Fork: nat},
		Limits: Limits{
			Default: Machine{CPUs: 2, Memory: 4 << 30, Disk: 20 << 30},
			Max:     Machine{CPUs: 4, Memory: 8 << 30, Disk: 60 << 30},
		},
		Budget: Budget{Reserve: Machine{CPUs: 1, Memory: 2 << 30, Disk: 10 << 30}},
		Console: Console{
			Dir:  "/var/log/debcloud/console",
			Cap:  16 << 20,
			Keep: 14 * 24 * time.Hour,
		},
		Agent:        Agent{Boot: 2 * time.Minute, BootEmulated: 10 * time.Minute, Connect: 30 * time.Second},
		Guest:        Guest{BuildsDir: "/builds", CacheDir: "/cache"},
		Deadlines:    Deadlines{Job: 24 * time.Hour, Grace: 15 * time.Minute, Admission: time.Hour},
		GitlabRunner: "/usr/bin/gitlab-runner",
		WarmPool:     WarmPool{MaxAge: 12 * time.Hour, Check: 30 * time.Second},
		Testbed:      Testbed{Budget: Resources{CPUs: 4, Memory: 4 << 30, Disk: 40 << 30, VMs: 2}},
		Metrics:      Metrics{Address: "127.0.0.1:9465"},
		Log:          Log{Level: "info"},
	}
}

// defaultImage is the allow-list of a file without one.
const defaultImage = "runner"

// complete fills in what depends on other settings.
func (s *Settings) complete() {
	if s.Images == nil {
		s.Images = map[string]Image{defaultImage: {}}
	}
	if s.DefaultImage == "" && len(s.Images) == 1 {
		for name := range s.Images {
			s.DefaultImage = name
		}
	}
	for name, i := range s.Images {
		if i.Firmware == "" {
			i.Firmware = "bios"
		}
		if i.File != "" && i.Format == "" {
			i.Format = "qcow2"
		}
		s.Images[name] = i
	}
}
